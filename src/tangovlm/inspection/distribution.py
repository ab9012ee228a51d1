"""How the saliency of a frame is distributed over its tokens: sorted scores, and the share of the highest ones.

A score is the share that a token has of the sum of its frame, so that frames and kinds of saliency can be compared.
Scores are averaged over the frames of a clip first; means and standard deviations are those of clips. (Tango paper,
arXiv 2604.09547: the distribution is long-tailed.)

Shape letters: L tokens of a frame, C clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tangovlm.budget import count, validate_retention
from tangovlm.errors import InputError
from tangovlm.evaluate.statistics import Bootstrap, Estimate
from tangovlm.pipeline.frame_source import Progress
from tangovlm.pipeline.load import VideoLLM
from tangovlm.report.plot import series_style

from .attention import Saliency, kinds_of
from .clips import ClipSource
from .output import Row, counted, new_figure, set_title

Floats = npt.NDArray[np.float64]
_PANEL_POINTS = 260
"""Height of a panel."""
SHARES = (0.05, 0.1, 0.2, 0.5)
"""Fractions of the tokens whose share of the attention is listed."""


@dataclass(frozen=True, eq=False)
class SortedScores:
    """One kind of saliency.

    Parameters
    ----------
    kind: "p-attn", "attn" or "mean-query".
    shares: ``(C, L)`` descending shares of a frame's attention, each the mean over the frames of a clip.
    """

    kind: str
    shares: Floats

    @property
    def mean(self) -> Floats:
        """``(L,)``."""
        mean: Floats = self.shares.mean(axis=0)
        return mean

    @property
    def sd(self) -> Floats:
        """``(L,)``, of the clips that were measured (divided by C)."""
        return self.shares.std(axis=0)

    def top(self, tokens: int) -> Floats:
        """``(C,)``: share of the attention of so many tokens with the highest scores."""
        top: Floats = self.shares[:, :tokens].sum(axis=1)
        return top


@dataclass(frozen=True, eq=False)
class Distribution:
    """The result of `measure`.

    Parameters
    ----------
    model: its name.
    kinds: one entry for each kind of saliency.
    grid: rows and columns.
    clips, frames: numbers of clips and of frames of all clips.
    shares: fractions of the tokens whose share is listed.
    notes: for the user.
    """

    model: str
    kinds: tuple[SortedScores, ...]
    grid: tuple[int, int]
    clips: int
    frames: int
    shares: tuple[float, ...]
    notes: tuple[str, ...]

    @property
    def length(self) -> int:
        """L."""
        return self.grid[0] * self.grid[1]

    def rows(self) -> list[Row]:
        """One row for each kind and number of tokens: the score of the last of them, and the share of all of them."""
        rows = []
        for kind in self.kinds:
            for place in range(self.length):
                top = kind.top(place + 1)
                rows.append(
                    {
                        "saliency": kind.kind,
                        "place": place + 1,
                        "fraction_of_tokens": (place + 1) / self.length,
                        "share_mean": float(kind.mean[place]),
                        "share_sd": self._sd(kind.shares[:, place]),
                        "top_share_mean": float(top.mean()),
                        "top_share_sd": self._sd(top),
                    }
                )
        return rows

    def _sd(self, values: Floats) -> float | None:
        """The standard deviation over clips; None for a single clip, which has none."""
        return float(values.std()) if self.clips > 1 else None

    def summary(self) -> list[Row]:
        """For each kind and fraction of the tokens: its share, with the 95 % interval over clips."""
        rows = []
        bootstrap = Bootstrap(range(self.clips))
        for kind in self.kinds:
            for share in self.shares:
                tokens = count(share, self.length)
                top = kind.top(tokens)
                estimate: Estimate = bootstrap.mean(top)
                rows.append(
                    {
                        "saliency": kind.kind,
                        "top": share,
                        "tokens": tokens,
                        "share": estimate.value,
                        "SD": self._sd(top),
                        "low": estimate.low,
                        "high": estimate.high,
                    }
                )
        return rows


def measure(
    llm: VideoLLM, source: ClipSource, *, shares: Sequence[float] = SHARES, progress: Progress | None = None
) -> Distribution:
    """Sort the saliency of every frame of some clips.

    Parameters
    ----------
    shares: fractions of the tokens of a frame, in (0, 1].

    Raises
    ------
    InputError: a fraction outside (0, 1], clips whose grids differ, or a frame without attention.
    ModelError: the model does not provide the saliency, or its weights are missing.
    VideoError: a clip that cannot be decoded.
    """
    for share in shares:
        validate_retention(share)
    names = kinds_of(llm)
    found: dict[str, list[Floats]] = {kind: [] for kind in names}
    grid, frames, notes = None, 0, [*source.notes]
    for clip in source.clips(llm, progress):
        for kind, tokens in clip.tokens(names).items():
            assert tokens.saliency is not None
            size = (tokens.height, tokens.width)
            check_grid(clip.name, size, grid)
            grid = size
            saliency = Saliency.of(kind, tokens.saliency)
            if not (saliency.scores.sum(axis=(1, 2)) > 0).all():
                raise InputError(f"{clip.name}: a frame has no attention at all: check the model's weights")
            flat = saliency.share.reshape(tokens.frames, -1)
            found[kind].append(np.take_along_axis(flat, saliency.order, axis=1).mean(axis=0))
        frames += tokens.frames
        notes += clip.notes
    assert grid is not None
    kinds = tuple(SortedScores(kind, np.stack(clips)) for kind, clips in found.items())
    return Distribution(llm.name, kinds, grid, source.count, frames, tuple(shares), tuple(notes))


def check_grid(name: str, grid: tuple[int, int], before: tuple[int, int] | None) -> None:
    """Raise `InputError` if the grid of a clip differs from that of the clips before it."""
    if before not in (None, grid):
        assert before is not None
        raise InputError(
            f"{name}: the grid is {grid[0]} x {grid[1]} tokens here and {before[0]} x {before[1]} before: "
            "measure clips of one shape at a time"
        )


def draw(measured: Distribution) -> Any:
    """A figure of matplotlib: sorted shares of a token, and the share of the highest ones."""
    from matplotlib.ticker import PercentFormatter

    figure = new_figure(4.8)
    left, right = figure.subplots(1, 2)
    places = np.arange(1, measured.length + 1)
    fractions = places / measured.length
    for number, kind in enumerate(measured.kinds):
        style = series_style(number)
        line = {"color": style["color"], "linestyle": ("-", "--", ":")[number % 3], "linewidth": 1.8}
        left.plot(places, kind.mean, label=kind.kind, **line)
        top = np.cumsum(kind.shares, axis=1)
        right.plot(fractions, top.mean(axis=0), label=kind.kind, **line)
        if measured.clips == 1:
            continue
        left.fill_between(
            places, np.maximum(kind.mean - kind.sd, 0), kind.mean + kind.sd, alpha=0.2, color=line["color"]
        )
        right.fill_between(
            fractions, top.mean(axis=0) - top.std(axis=0), top.mean(axis=0) + top.std(axis=0), alpha=0.2,
            color=line["color"],
        )  # fmt: skip
    _mark_shares(right, measured)
    uniform = {"color": "0.4", "linewidth": 1, "linestyle": "-.", "label": "uniform attention"}
    left.axhline(1 / measured.length, **uniform)
    right.plot([0, 1], [0, 1], **uniform)
    for axes in (left, right):
        # As many decimals as differ between the ticks.
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    left.set(xlabel="token of a frame, by descending score", ylabel="share of the frame's attention", xlim=(1, None))
    right.set(xlabel="fraction of the tokens with the highest scores", ylabel="their share of the frame's attention")
    right.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    left.set_ylim(0)
    right.set(xlim=(0, 1), ylim=(0, 1.02))
    clips, frames = counted(measured.clips, "clip"), counted(measured.frames, "frame")
    set_title(figure, measured.model, f"mean{' ± SD' if measured.clips > 1 else ''} over {clips}, {frames}")
    return figure


def _mark_shares(axes: Any, measured: Distribution) -> None:
    """Mark the shares on each curve, and list them below the diagonal, where no curve is."""
    size = min(9.0, 90 / len(measured.shares))
    line = 1.5 * size / _PANEL_POINTS
    head = 0.03 + line * len(measured.shares)
    for column, (number, kind) in enumerate(reversed(list(enumerate(measured.kinds)))):
        colour, right = series_style(number)["color"], 0.98 - 0.16 * column
        text = {"transform": axes.transAxes, "ha": "right", "fontsize": size}
        axes.text(right, head, kind.kind, color=colour, **text)
        for row, share in enumerate(measured.shares):
            tokens = count(share, measured.length)
            value = float(kind.top(tokens).mean())
            axes.plot(tokens / measured.length, value, series_style(number)["marker"], color=colour, markersize=5)
            height = head - line * (row + 1)
            axes.text(right, height, f"{100 * value:.0f} %", color=colour, **text)
            if column == len(measured.kinds) - 1:
                axes.text(right - 0.16, height, f"top {100 * share:g} %", color="0.2", **text)
