"""What a session writes down: one report a video, and for pictures what was kept of it."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from .tokens import Selection, VideoReport


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


@dataclass(eq=False)
class Records:
    """Reports in the order in which videos were encoded.

    Parameters
    ----------
    keep: whether to keep what pictures need in `videos`.
    """

    keep: bool
    reports: list[VideoReport] = field(default_factory=list)
    videos: list[VideoRecord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _unread: int = 0

    def note(self, text: str) -> None:
        """Write a note down and warn of it, once."""
        if text not in self.notes:
            self.notes.append(text)
            warnings.warn(text, UserWarning, stacklevel=2)

    def begin_call(self) -> None:
        """A call of the model begins: videos that no language model has read yet never will be."""
        self._unread = 0

    def add(self, report: VideoReport, selection: Selection, saliency: Tensor | None) -> None:
        """A video was encoded, and reduced before the language model or not."""
        self.reports.append(report)
        self._unread += 1
        if self.keep:
            on_cpu = replace(
                selection,
                indices=selection.indices.cpu(),
                features=selection.features.cpu(),
                sources=selection.sources.cpu(),
            )
            self.videos.append(VideoRecord(on_cpu, None if saliency is None else saliency.float().cpu(), report))

    def read(self, prompts: Sequence[Sequence[Sequence[int]]]) -> None:
        """The language model read prompts: visual tokens of each of their videos, in each layer."""
        # Beams read copies of every prompt, which stand side by side; videos are encoded once.
        total = sum(len(prompt) for prompt in prompts)
        if not total or not self._unread:
            return
        videos = [counts for prompt in prompts[:: max(1, total // self._unread)] for counts in prompt]
        for place, counts in zip(range(-self._unread, 0), videos, strict=False):
            self.reports[place] = replace(self.reports[place], tokens_per_layer=tuple(counts))
            if self.keep:
                self.videos[place] = replace(self.videos[place], report=self.reports[place])
        self._unread = 0
