"""What a session writes down: one report a video, and for pictures what was kept of it."""

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
    saliency: ``(T, H, W)`` float, None where the method did not ask for it.
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
        """Write a note down and warn of it, once."""
        with self._lock:
            known = text in self.notes
            if not known:
                self.notes.append(text)
        if not known:
            warnings.warn(text, UserWarning, stacklevel=2)

    def add(self, report: VideoReport, selection: Selection, saliency: Tensor | None) -> int:
        """A video was encoded, and reduced before the language model or not; returns its place in the records."""
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

    def read(self, places: list[int], prompts: Sequence[Sequence[Sequence[int]]]) -> None:
        """The language model read prompts: visual tokens of each of their videos, in each layer.

        Parameters
        ----------
        places: of the videos that were encoded for them, which are empty afterwards.
        """
        # Beams read copies of every prompt, which stand side by side; videos are encoded once.
        total = sum(len(prompt) for prompt in prompts)
        if not total or not places:
            return
        videos = [counts for prompt in prompts[:: max(1, total // len(places))] for counts in prompt]
        with self._lock:
            for place, counts in zip(places, videos, strict=False):
                self.reports[place] = replace(self.reports[place], tokens_per_layer=tuple(counts))
                if self.keep:
                    self.videos[place] = replace(self.videos[place], report=self.reports[place])
        places.clear()
