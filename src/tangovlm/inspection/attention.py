"""The saliency of each token over the frames of one clip: every kind that a family provides, side by side.

As in the figures of the Tango paper (arXiv 2604.09547) that compare the attention of the encoder's last layer with that
of its pooling head: heat maps, rank maps, and the most salient tokens.

Shape letters: T steps of the token grid, H, W its rows and columns, L = H * W.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from tangovlm.errors import InputError
from tangovlm.methods.common.selection import top_indices
from tangovlm.methods.common.sink_list import SinkList
from tangovlm.models.common.sinks import frame_ranks
from tangovlm.pipeline.frame_source import Progress
from tangovlm.pipeline.load import VideoLLM
from tangovlm.report.scenes import Scene
from tangovlm.tokens import VideoTokens
from tangovlm.validation import check_sink_tokens

from .clips import ClipSource
from .output import (
    Row,
    draw_frame,
    grey,
    heat_map,
    hide_ticks,
    new_figure,
    number_size,
    outlined,
    row_height,
    set_title,
    shown_steps,
)

Floats = npt.NDArray[np.float64]
_CLIPPED = 0.99
"""Quantile of the scores at the end of the colour scale: a single sink would darken the rest."""


@dataclass(frozen=True, eq=False)
class Saliency:
    """One kind of saliency of a clip.

    Parameters
    ----------
    kind: "p-attn", "attn" or "mean-query".
    scores: ``(T, H, W)`` as methods receive them.
    share: ``(T, H, W)`` the score divided by the sum of its frame; zero if that is zero.
    ranks: ``(T, H, W)`` rank in the frame, 0 the lowest and 1 the highest; equal tokens share their mean rank.
    order: ``(T, L)`` positions ``h * W + w`` by descending score; ties go to the lowest position.
    """

    kind: str
    scores: Floats
    share: Floats
    ranks: Floats
    order: npt.NDArray[np.int64]

    @classmethod
    def of(cls, kind: str, saliency: Tensor) -> Saliency:
        """Rank the tokens of each frame of ``saliency (T, H, W)``."""
        flat = saliency.detach().float().cpu().flatten(1)
        if flat.shape[1] < 2:
            raise InputError("a grid of one token has nothing to rank: use another model")
        sums = flat.double().sum(dim=1, keepdim=True)
        share = (flat.double() / sums).where(sums > 0, 0)
        ranks = frame_ranks(flat).double() / (2 * (flat.shape[1] - 1))
        order = top_indices(flat, flat.shape[1])
        scores, shares, of_frame = (part.view(saliency.shape).numpy() for part in (flat.double(), share, ranks))
        return cls(kind, scores, shares, of_frame, order.numpy())


@dataclass(frozen=True, eq=False)
class ClipAttention:
    """The result of `measure`.

    Parameters
    ----------
    model, clip: their names.
    kinds: one entry for each kind of saliency.
    scene: the pictures and times of the steps.
    sinks: known or given sink positions ``h * W + w``.
    top: number of tokens to mark in each frame.
    notes: for the user.
    """

    model: str
    clip: str
    kinds: tuple[Saliency, ...]
    scene: Scene
    sinks: tuple[int, ...]
    top: int
    notes: tuple[str, ...]

    def rows(self) -> list[Row]:
        """One row for each kind and token, with its place in its frame, 1 for the highest score."""
        rows = []
        for kind in self.kinds:
            steps, _, width = kind.scores.shape
            for step in range(steps):
                places = {int(position): place for place, position in enumerate(kind.order[step], start=1)}
                for position, place in sorted(places.items()):
                    at = (step, *divmod(position, width))
                    rows.append(
                        {
                            "saliency": kind.kind,
                            "step": step,
                            "time_s": self.scene.times_s[step],
                            "row": at[1],
                            "column": at[2],
                            "score": float(kind.scores[at]),
                            "share": float(kind.share[at]),
                            "rank": float(kind.ranks[at]),
                            "place": place,
                            "sink": int(position in self.sinks),
                        }
                    )
        return rows

    def summary(self) -> list[Row]:
        """For each kind: the share of a frame's attention of its marked tokens, and how they agree with the first kind.

        ``common`` is the fraction of the marked tokens that are also marked by the first kind.
        """
        first = self.kinds[0].order[:, : self.top]
        rows = []
        for kind in self.kinds:
            marked = kind.order[:, : self.top]
            shares = np.take_along_axis(kind.share.reshape(len(marked), -1), marked, axis=1).sum(axis=1)
            common = [len({*one.tolist()} & {*other.tolist()}) for one, other in zip(marked, first, strict=True)]
            rows.append(
                {
                    "saliency": kind.kind,
                    "marked tokens": marked.shape[1],
                    "their share": float(shares.mean()),
                    f"common with {self.kinds[0].kind}": float(np.mean(common)) / marked.shape[1],
                }
            )
        return rows


def measure(
    llm: VideoLLM,
    source: ClipSource,
    *,
    top: int = 10,
    sinks: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> ClipAttention:
    """Every kind of saliency that a model provides, or the one that it was loaded with, of the first clip.

    Parameters
    ----------
    top: number of tokens to mark in each frame.
    sinks: positions of sinks; None for those that are known of the family.

    Raises
    ------
    ModelError: the model does not provide the saliency, or its weights are missing.
    VideoError: the clip cannot be decoded.
    """
    clip = source.only(llm, progress)
    found = clip.tokens(kinds_of(llm))
    tokens = next(iter(found.values()))
    known = sinks_of(tokens, sinks) or ()
    kinds = tuple(Saliency.of(kind, _saliency(each.saliency)) for kind, each in found.items())
    scene = clip.scene(clip.record_all())
    notes = (*source.notes, *clip.notes)
    return ClipAttention(llm.name, clip.name, kinds, scene, known, min(top, kinds[0].order.shape[1]), notes)


def kinds_of(llm: VideoLLM) -> tuple[str, ...]:
    """The kinds of saliency of a model: the one that it was loaded with, else all of its family."""
    return llm.family.signals.saliency_kinds if llm.family.saliency is None else (llm.family.saliency,)


def sinks_of(tokens: VideoTokens, sinks: Sequence[int] | None) -> tuple[int, ...] | None:
    """The given sinks, else those that are known of the family; None if unmeasured.

    Raises
    ------
    InputError: sinks of another grid.
    """
    if sinks is None:
        return tokens.sink_tokens
    if isinstance(sinks, SinkList):
        sinks.check_grid(tokens.height, tokens.width)
    check_sink_tokens("sinks", tuple(sinks), tokens.height, tokens.width)
    return tuple(sinks)


def _saliency(saliency: Tensor | None) -> Tensor:
    assert saliency is not None
    return saliency


def draw(measured: ClipAttention, frames: int = 4) -> Any:
    """A figure of matplotlib: for each kind, scores over frames with numbered tokens, and ranks below."""
    shown = shown_steps(measured.scene.steps, frames)
    kinds = measured.kinds
    aspect, width_in = measured.scene.aspect, 9.4 * len(shown) / (len(shown) + 0.6)
    figure = new_figure(0.9 + 2 * len(kinds) * row_height(len(shown), aspect, width_in))
    height, width = kinds[0].scores.shape[1:]
    size = number_size((height, width), len(shown), aspect, width_in)
    grid = figure.subplots(2 * len(kinds), len(shown), squeeze=False)
    for number, kind in enumerate(kinds):
        scores, ranks = grid[2 * number], grid[2 * number + 1]
        relative = kind.share * kind.order.shape[1]
        limit = max(float(np.quantile(relative, _CLIPPED)), 1.0)
        for column, step in enumerate(shown):
            heat = _draw_scores(scores[column], measured, relative[step], kind, step, limit, size)
            rank = ranks[column].imshow(
                kind.ranks[step], cmap=heat_map(), vmin=0, vmax=1, aspect=scores[column].get_aspect()
            )
            hide_ticks(ranks[column])
        scores[0].set_ylabel(f"{kind.kind}\nscore over frame")
        ranks[0].set_ylabel(f"{kind.kind}\nrank")
        figure.colorbar(heat, ax=list(scores), extend="max", label="score / mean score\nof the frame")
        figure.colorbar(rank, ax=list(ranks), label="rank in the frame\n(1: highest score)")
    for axes, step in zip(grid[0], shown, strict=True):
        axes.set_title(f"{measured.scene.times_s[step]:.2f} s", fontsize=10)
    crosses = ", ×: known sink" if measured.sinks else ""
    marks = f"1 to {measured.top}" if size else f"the {measured.top} dots"
    set_title(figure, measured.model, f"saliency of tokens; {marks}: the highest of a frame{crosses}")
    return figure


def _draw_scores(
    axes: Any, measured: ClipAttention, relative: Floats, kind: Saliency, step: int, limit: float, size: float
) -> Any:
    height, width = relative.shape
    draw_frame(axes, grey(measured.scene.images[step]), (height, width), measured.scene.aspect)
    aspect = axes.get_aspect()
    drawn = axes.imshow(relative, cmap=heat_map(), vmin=0, vmax=limit, alpha=0.55, aspect=aspect)
    for place, position in enumerate(kind.order[step, : measured.top], start=1):
        row, column = divmod(int(position), width)
        if size:
            axes.text(column, row, str(place), ha="center", va="center", fontsize=size, **outlined())
        else:
            axes.plot(column, row, ".", color="white", markersize=4, markeredgecolor="black", markeredgewidth=0.5)
    for position in measured.sinks:
        axes.plot(position % width, position // width, "x", color="white", markersize=size or 4)
    hide_ticks(axes)
    return drawn
