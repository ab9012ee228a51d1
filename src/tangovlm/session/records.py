"""What a session records: one report for each video, and the kept tokens for pictures."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from threading import Lock

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

    def add_layer_counts(self, indices: list[int], prompts: Sequence[Sequence[Sequence[int]]]) -> None:
        """Record the visual tokens in each layer, for each video of the prompts that the language model read.

        Parameters
        ----------
        indices: of the videos that were encoded for these prompts; cleared.
        prompts: for each prompt and each of its videos, one number a layer.
        """
        # Beams read copies of every prompt, which are adjacent; videos are encoded once.
        total = sum(len(prompt) for prompt in prompts)
        if not total or not indices:
            return
        videos = [counts for prompt in prompts[:: max(1, total // len(indices))] for counts in prompt]
        with self._lock:
            for index, counts in zip(indices, videos, strict=False):
                self.reports[index] = replace(self.reports[index], tokens_per_layer=tuple(counts))
                if self.keep:
                    self.videos[index] = replace(self.videos[index], report=self.reports[index])
        indices.clear()
