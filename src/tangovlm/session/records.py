"""What a session records: one report for each video, and the kept tokens for pictures."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, NamedTuple

from torch import Tensor

from ..budget import validate_retention
from ..errors import InputError
from ..tokens import Selection, VideoReport
from .in_llm.prompts import Remaining


@dataclass(frozen=True)
class Recording:
    """What to record of each video, for pictures.

    Parameters
    ----------
    retentions: other retentions of the method at which the same video is pruned too, for `VideoRecord.alternatives`.

    Raises
    ------
    InputError: a retention outside (0, 1], or a number in place of a tuple.
    """

    retentions: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.retentions, (tuple, list)):
            raise InputError(f"the retentions of a Recording are {self.retentions!r}: give a tuple such as (0.1, 0.5)")
        for retention in self.retentions:
            validate_retention(retention)


@dataclass(frozen=True, eq=False)
class Alternative:
    """What a method keeps of a video before the language model at another retention.

    Parameters
    ----------
    retention: of the method or pair.
    selection: on the CPU, with features of no channels; None if the method cannot prune the video so.
    reason: why not.
    """

    retention: float
    selection: Selection | None
    reason: str = ""


@dataclass(frozen=True, eq=False)
class CutRecord:
    """The tokens of a video that enter a layer, after a cut of a method inside the language model.

    Parameters
    ----------
    layer: the first layer that reads them.
    indices: ``(k,)`` int64 on the CPU, ascending grid indices.
    added: number of further tokens, which the method made from others.
    """

    layer: int
    indices: Tensor
    added: int


@dataclass(frozen=True, eq=False)
class VideoRecord:
    """What happened to one video, for pictures; all tensors are on the CPU.

    Parameters
    ----------
    selection: what the method kept.
    saliency: ``(T, H, W)`` float, None if the method did not need it.
    report: counts and times.
    alternatives: what it keeps at the retentions of the `Recording`; empty if it prunes nothing before the language
        model.
    cuts: what remains after each cut inside the language model; empty if it does not prune between its layers.
    """

    selection: Selection
    saliency: Tensor | None
    report: VideoReport
    alternatives: tuple[Alternative, ...] = ()
    cuts: tuple[CutRecord, ...] = ()


class Reading(NamedTuple):
    """What the language model read of one video, with pruning inside it.

    Parameters
    ----------
    changes: fields of the `VideoReport` and their values.
    selection: the tokens that entered it, on the CPU, if a first pass chose them; else None.
    cuts: what remained after each cut.
    """

    changes: Mapping[str, Any]
    selection: Selection | None = None
    cuts: tuple[Remaining, ...] = ()


class Records:
    """Reports in the order in which videos were encoded; several threads may add to them.

    Parameters
    ----------
    record: what to keep for pictures in `videos`; False for nothing.
    """

    def __init__(self, record: bool | Recording) -> None:
        self.keep = bool(record)
        self.retentions = record.retentions if isinstance(record, Recording) else ()
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

    def add(
        self,
        report: VideoReport,
        selection: Selection,
        saliency: Tensor | None,
        alternatives: tuple[Alternative, ...] = (),
    ) -> int:
        """Record a video that was encoded, and perhaps pruned; returns its index in the records."""
        record = None
        if self.keep:
            on_cpu = selection_on_cpu(selection)
            record = VideoRecord(on_cpu, None if saliency is None else saliency.float().cpu(), report, alternatives)
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
                    cuts = tuple(
                        CutRecord(cut.layer, selection.indices[cut.numbers], cut.added) for cut in reading.cuts
                    )
                    self.videos[index] = replace(record, report=self.reports[index], selection=selection, cuts=cuts)
        indices.clear()


def selection_on_cpu(selection: Selection, *, with_features: bool = True) -> Selection:
    """A selection on the CPU; without its features, their tensor is ``(K, 0)``."""
    features = selection.features if with_features else selection.features[:, :0]
    return replace(selection, indices=selection.indices.cpu(), features=features.cpu(), sources=selection.sources.cpu())
