"""The data of a picture: the frames of a video, and the tokens of each that a method kept, merged or dropped.

T is the number of token steps, H and W are the size of the token grid, Y and X the size in pixels. If a model joins
several frames into one token step, the step is drawn on the middle frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from tangovlm.tokens import Selection, VideoReport

from .palette import Pixels

if TYPE_CHECKING:
    from tangovlm.session.records import Alternative, CutRecord
    from tangovlm.video import Frames

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


class RecordedVideo(Protocol):
    """The record of a video by `attach(record=True)`; see `VideoRecord`."""

    @property
    def selection(self) -> Selection | None: ...

    @property
    def saliency(self) -> Tensor | None: ...

    @property
    def report(self) -> VideoReport: ...

    @property
    def alternatives(self) -> tuple[Alternative, ...]: ...

    @property
    def cuts(self) -> tuple[CutRecord, ...]: ...


@dataclass(frozen=True)
class KeptSet:
    """The tokens that a method keeps before the language model at one retention.

    Parameters
    ----------
    retention: of the method or pair.
    sources: `(T, H, W)` the slot of each token, -1 for dropped.
    kept: `(T, H, W)` True at the token of each slot.
    segments: token steps per temporal segment.
    answered: whether the answer was given with these tokens.
    """

    retention: float
    sources: Ints
    kept: Flags
    segments: tuple[int, ...]
    answered: bool

    @property
    def slots(self) -> int:
        """Number of kept tokens."""
        return int(self.kept.sum())


@dataclass(frozen=True)
class Cut:
    """What a method inside the language model left of the tokens of the answer.

    Parameters
    ----------
    layer: the first layer that reads them.
    present: `(T, H, W)` True for the tokens that are left.
    added: number of further tokens, which the method made from others.
    """

    layer: int
    present: Flags
    added: int


@dataclass(frozen=True)
class Scene:
    """One video to draw.

    Parameters
    ----------
    images: one `(Y, X, 3)` uint8 picture per token step.
    times_s: seconds from the start of the video, one per step.
    sources: `(T, H, W)` the slot of each token, -1 for dropped; None without a record.
    kept: `(T, H, W)` True at the token of each slot; None if `sources` is None.
    saliency: `(T, H, W)` scaled to [0, 1]; None if the method needs none.
    segments: token steps per temporal segment.
    aspect: width divided by height of the pictures as the video shows them; models may take squares.
    sets: what the method keeps at several retentions, ascending, that of the answer among them; empty without a record.
    impossible: retentions at which the method cannot prune this video, with the reason.
    cuts: what is left after each cut inside the language model; empty if there is none.
    """

    images: tuple[Pixels, ...]
    times_s: tuple[float, ...]
    sources: Ints | None
    kept: Flags | None
    saliency: Floats | None
    segments: tuple[int, ...]
    aspect: float
    sets: tuple[KeptSet, ...] = ()
    impossible: tuple[tuple[float, str], ...] = ()
    cuts: tuple[Cut, ...] = ()

    @property
    def steps(self) -> int:
        """T."""
        return len(self.images)

    @property
    def slots(self) -> int:
        """Number of kept tokens."""
        return 0 if self.kept is None else int(self.kept.sum())

    def segment_of(self, step: int) -> int:
        """The index of the segment of a step."""
        return int(np.searchsorted(np.cumsum(self.segments), step, side="right"))


def scene(frames: Frames, video: RecordedVideo | None) -> Scene:
    """Combine frames with the record of a video; without a record, only the frames are drawn."""
    selection = None if video is None else video.selection
    sources = None if selection is None else selection.sources.cpu().numpy().astype(np.int64)
    count = len(frames.pixels)
    steps = count if sources is None else sources.shape[0]
    shown = [min(count - 1, (2 * step + 1) * count // (2 * steps)) for step in range(steps)]
    saliency = None if video is None or video.saliency is None else _unit(video.saliency)
    return Scene(
        images=tuple(frames.pixels[i].permute(1, 2, 0).contiguous().cpu().numpy() for i in shown),
        times_s=tuple(float(frames.timestamps_s[i]) for i in shown),
        sources=sources,
        kept=None if selection is None or sources is None else _flags(selection.indices, sources.shape),
        saliency=saliency,
        segments=selection.segments if selection is not None else (steps,),
        aspect=frames.pixels.shape[3] / frames.pixels.shape[2] if frames.aspect is None else frames.aspect,
        sets=() if video is None else tuple(_sets(video)),
        impossible=() if video is None else tuple(_impossible(video)),
        cuts=() if video is None or sources is None else tuple(_cut(cut, sources.shape) for cut in video.cuts),
    )


def _sets(video: RecordedVideo) -> Iterator[KeptSet]:
    if video.selection is None:
        return
    own = video.report.retention
    # An alternative with the retention of the answer has the same tokens.
    found = {a.retention: a.selection for a in video.alternatives if a.selection is not None} | {own: video.selection}
    for retention, selection in sorted(found.items()):
        sources = selection.sources.cpu().numpy().astype(np.int64)
        kept = _flags(selection.indices, sources.shape)
        yield KeptSet(retention, sources, kept, selection.segments, retention == own)


def _impossible(video: RecordedVideo) -> Iterator[tuple[float, str]]:
    return ((each.retention, each.reason) for each in video.alternatives if each.selection is None)


def _cut(cut: CutRecord, shape: tuple[int, ...]) -> Cut:
    return Cut(cut.layer, _flags(cut.indices, shape), cut.added)


def _flags(indices: Tensor, shape: tuple[int, ...]) -> Flags:
    """`shape`, True at these grid indices."""
    flags = np.zeros(int(np.prod(shape)), dtype=bool)
    flags[indices.cpu().numpy()] = True
    return flags.reshape(shape)


def _unit(saliency: Tensor) -> Floats:
    """Scale to [0, 1]. The top percent saturates, because a single sink token would darken the rest of the video."""
    values = saliency.detach().double().cpu().numpy()
    top = float(np.quantile(values, 0.99))
    if top <= 0:
        return np.zeros_like(values)
    return np.sqrt(np.clip(values / top, 0.0, 1.0))
