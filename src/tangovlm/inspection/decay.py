"""How similar ST-RoPE leaves two equal tokens that are some seconds, rows or columns apart, for several bases.

Only the position decides: the token has the same energy in every channel, which is the expectation of a random one.
(Tango paper, arXiv 2604.09547, Eq. 6-8; the similarity falls with the distance in the long term, and oscillates.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tangovlm.errors import InputError
from tangovlm.methods.common.st_rope import default_sections, st_rope
from tangovlm.methods.tango import Tango
from tangovlm.report.plot import SERIES_COLOURS

from .output import Row, new_figure

Floats = npt.NDArray[np.float64]
TIME_BASES = (1e2, 1e3, 1e4, 1e5)
SPACE_BASES = (1e1, 1e2, 1e3, 1e4)
CHANNELS = 3584
"""Hidden size of the 7B models of the paper."""
SECONDS = 300
CELLS = 27
MOST_BASES = 28
"""Lines that differ in colour and dashes."""


@dataclass(frozen=True, eq=False)
class Decay:
    """The result of `measure`.

    Parameters
    ----------
    channels: of a token.
    seconds: distances in time.
    cells: distances in rows; those in columns give the same.
    time, space: base to similarity at these distances, cosines in [-1, 1].
    """

    channels: int
    seconds: Floats
    cells: Floats
    time: dict[float, Floats]
    space: dict[float, Floats]
    notes: tuple[str, ...] = ()

    def rows(self) -> list[Row]:
        """One row for each axis, base and distance."""
        return [
            {"axis": axis, "base": base, "distance": float(distance), "unit": unit, "similarity": float(similarity)}
            for axis, unit, distances, curves in self._axes()
            for base, curve in curves.items()
            for distance, similarity in zip(distances, curve, strict=True)
        ]

    def summary(self) -> list[Row]:
        """The similarity at some distances."""
        rows = []
        for axis, unit, distances, curves in self._axes():
            for base, curve in curves.items():
                places = [
                    place for place, distance in enumerate(distances) if distance in (1, 5, 13, 30, len(distances) - 1)
                ]
                values = {f"{distances[place]:g}": float(curve[place]) for place in places}
                near = {name: values.get(name) for name in ("1", "5", "13", "30")}
                rows.append(
                    {
                        "axis": axis,
                        "unit": unit,
                        "base": base,
                        **near,
                        "last": float(curve[-1]),
                        "at": float(distances[-1]),
                    }
                )
        return rows

    def _axes(self) -> tuple[tuple[str, str, Floats, dict[float, Floats]], ...]:
        return ("time", "s", self.seconds, self.time), ("space", "rows", self.cells, self.space)


def measure(
    *,
    channels: int = CHANNELS,
    time_bases: Sequence[float] = TIME_BASES,
    space_bases: Sequence[float] = SPACE_BASES,
    seconds: int = SECONDS,
    cells: int = CELLS,
) -> Decay:
    """Rotate equal tokens at all distances, and compare them with the first.

    Parameters
    ----------
    channels: of a token, at least 6, so that every block has a pair of them.
    time_bases, space_bases: > 0.
    seconds, cells: the largest distances.

    Raises
    ------
    InputError: a value out of its range, a base that is given twice, or more than `MOST_BASES` for one axis.
    """
    for name, value, least in (("channels", channels, 6), ("seconds", seconds, 1), ("cells", cells, 1)):
        if value < least:
            raise InputError(f"{name} is {value}: give at least {least}")
    for axis, bases in (("time", time_bases), ("space", space_bases)):
        if len(set(bases)) < len(bases):
            raise InputError(f"a base of {axis} is given twice: leave it out once")
        if len(bases) > MOST_BASES:
            raise InputError(f"{len(bases)} bases of {axis} are given: up to {MOST_BASES} lines differ")
    for base in (*time_bases, *space_bases):
        if not 0 < base < float("inf"):
            raise InputError(f"the base {base:g} must be positive and finite")
    times, rows = torch.arange(seconds + 1, dtype=torch.float64), cells + 1
    token = torch.full((channels,), channels**-0.5, dtype=torch.float64)

    def similarity(frames: torch.Tensor, height: int, **bases: Any) -> Floats:
        rotated = st_rope(token.expand(len(frames), height, 1, channels), frames, **bases).flatten(0, 2)
        found: Floats = (rotated @ rotated[0]).numpy()
        return found

    return Decay(
        channels,
        times.numpy(),
        np.arange(rows, dtype=np.float64),
        {float(base): similarity(times, 1, base_time=float(base)) for base in time_bases},
        {float(base): similarity(times[:1], rows, base_space=float(base)) for base in space_bases},
    )


def draw(measured: Decay) -> Any:
    """A figure of matplotlib: similarity over seconds and over rows, a line for each base."""
    figure = new_figure(4.6)
    left, right = figure.subplots(1, 2, sharey=True)
    own = {left: Tango().base_time, right: Tango().base_space}
    panels = (
        (left, measured.seconds, measured.time, "seconds between two tokens"),
        (right, measured.cells, measured.space, "rows between two tokens"),
    )
    for axes, distances, curves, title in panels:
        for number, (base, curve) in enumerate(curves.items()):
            style = {"color": SERIES_COLOURS[number % 7], "linestyle": ("-", "--", "-.", ":")[number % 4]}
            mark = " (Tango's)" if base == own[axes] else ""
            axes.plot(distances, curve, label=f"base {base:g}{mark}", linewidth=2.2 if mark else 1.3, **style)
        axes.set(xlabel=title)
        axes.grid(alpha=0.3)
        # A long list gets columns, and does not leave the panel.
        axes.legend(frameon=False, fontsize=9 if len(curves) <= 10 else 7, ncols=-(-len(curves) // 10))
    left.set_xscale("symlog", linthresh=1)
    left.set_xlim(0, measured.seconds[-1])
    left.set_ylabel("cosine of two equal tokens")
    time, row, column = default_sections(measured.channels)
    floor = 1 - time / measured.channels
    left.axhline(floor, color="0.4", linewidth=1, linestyle=(0, (1, 3)))
    left.annotate(
        f"channels that time does not rotate: {floor:.2f}", (0.02, floor), (0, 3), xycoords=("axes fraction", "data"),
        textcoords="offset points", fontsize=8, color="0.3",
    )  # fmt: skip
    figure.suptitle(f"ST-RoPE on {measured.channels} channels ({time} time, {row} row, {column} column)", fontsize=11)
    return figure
