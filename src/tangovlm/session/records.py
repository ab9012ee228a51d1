"""What a session records: one report for each video, and the kept tokens for pictures."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, NamedTuple

from torch import Tensor

from ..tokens import Selection, VideoReport


@dataclass(frozen=True, eq=False)
class VideoRecord:
    """What happened to one video, for pictures; all tensors are on the CPU.

    Parameters
    ----------
    selection: what the method kept.
    saliency: ``(T, H, W)`` float, None if the method did not need it.
    report: counts and times.
    """

    selection: Selection
    saliency: Tensor | None
    report: VideoReport


class Reading(NamedTuple):
    """What the language model read of one video, with pruning inside it.

    Parameters
    ----------
    changes: fields of the `VideoReport` and their values.
    selection: the tokens that entered it, on the CPU; None if all did.
    """

    changes: Mapping[str, Any]
    selection: Selection | None = None


class Records:
    """Reports in the order in which videos were encoded; several threads may add to them.

    Parameters
    ----------
    keep: whether to keep what pictures need in `videos`.
    """

    def __init__(self, keep: bool) -> None:
        self.keep = keep
        self.reports: list[VideoReport] = []
        self.videos: list[VideoRecord] = []
        self.notes: list[str] = []
        self._lock = Lock()

    def note(self, text: str) -> None:
        """Record a note and issue it as a warning, once."""
        with self._lock:
            is_new = text not in self.notes
            if is_new:
                self.notes.append(text)
        if is_new:
            warnings.warn(text, UserWarning, stacklevel=2)

    def add(self, report: VideoReport, selection: Selection, saliency: Tensor | None) -> int:
        """Record a video that was encoded, and perhaps pruned; returns its index in the records."""
        record = None
        if self.keep:
            on_cpu = replace(
                selection,
                indices=selection.indices.cpu(),
                features=selection.features.cpu(),
                sources=selection.sources.cpu(),
            )
            record = VideoRecord(on_cpu, None if saliency is None else saliency.float().cpu(), report)
        with self._lock:
            self.reports.append(report)
            if record is not None:
                self.videos.append(record)
            return len(self.reports) - 1

    def add_readings(self, indices: list[int], prompts: Sequence[Sequence[Reading]]) -> None:
        """Record what the language model read of each video of its prompts.

        Parameters
        ----------
        indices: of the videos that were encoded for these prompts; cleared.
        prompts: for each prompt, one entry for each of its videos.
        """
        # Beams read copies of every prompt, which are adjacent; videos are encoded once.
        total = sum(len(prompt) for prompt in prompts)
        if not total or not indices:
            return
        videos = [reading for prompt in prompts[:: max(1, total // len(indices))] for reading in prompt]
        with self._lock:
            for index, reading in zip(indices, videos, strict=False):
                self.reports[index] = replace(self.reports[index], **reading.changes)
                if self.keep:
                    record = self.videos[index]
                    selection = reading.selection or record.selection
                    self.videos[index] = replace(record, report=self.reports[index], selection=selection)
        indices.clear()
