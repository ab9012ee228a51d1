"""A table as a picture: accuracy against the mean number of tokens, or of frames, a line per method."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tangovlm.report import whole_file
from tangovlm.report.plot import ADAPTIVE_MARKER, series_style

from .summary import Line
from .table import Table

_FEW = 6
"""With at most so many lines, points have their 95 % intervals."""
_AXIS_TITLES = {"tokens": "mean visual tokens per question", "frames": "frames per clip"}


def draw(path: Path, of: Table, lines: Sequence[Line], header: Mapping[str, Any]) -> None:
    """Write a picture of a table as PNG, 1,000 pixels wide.

    A table over frames has a panel per number of tokens. A run with adaptive counts is marked by a star.

    Parameters
    ----------
    lines: of all runs, the unpruned model first.
    header: of the file of results.

    Raises
    ------
    InputError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    panels = _panels(of, lines)
    figure = Figure(figsize=(10, 6), dpi=100, layout="constrained")
    row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    names = list(dict.fromkeys(_series(line) for panel in panels.values() for line in panel))
    for axes, (title, panel) in zip(row, panels.items(), strict=True):
        _draw_all_tokens(axes, of, lines)
        for number, name in enumerate(names):
            points = [line for line in panel if _series(line) == name]
            _draw_series(axes, of, name, points, series_style(number), intervals=len(names) <= _FEW)
        _draw_axes(axes, of, title)
    row[0].set_ylabel("exact match in percent")
    handles, labels = row[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=9, frameon=False)
    figure.suptitle(f"{of.title}: {header['benchmark']} {header['version']}, {header['model']}")
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")


def _panels(of: Table, lines: Sequence[Line]) -> dict[str, list[Line]]:
    """The pruned runs of each panel, by its title."""
    panels: dict[str, list[Line]] = {}
    for line in lines:
        if not line.run.unpruned:
            panels.setdefault(line.run.group if of.axis == "frames" else "", []).append(line)
    return panels or {"": []}


def _series(line: Line) -> str:
    return line.run.series or line.run.label


def _place(of: Table, line: Line) -> float:
    return line.tokens if of.axis == "tokens" else line.run.frames or max(line.lengths)


def _draw_all_tokens(axes: Any, of: Table, lines: Sequence[Line]) -> None:
    """The unpruned model: a level, or a line over the frames."""
    unpruned = [line for line in lines if line.run.unpruned]
    style = {"color": "0.35", "linestyle": (0, (6, 2)), "linewidth": 1.2}
    if of.axis == "tokens":
        label = f"all tokens ({unpruned[0].tokens:,.0f})"
        axes.axhline(100 * unpruned[0].exact.value, label=label, **style)
    else:
        points = sorted((_place(of, line), 100 * line.exact.value) for line in unpruned)
        axes.plot(*zip(*points, strict=True), marker="_", label="all tokens of the frames", **style)


def _draw_series(
    axes: Any, of: Table, name: str, points: Sequence[Line], style: Mapping[str, Any], intervals: bool
) -> None:
    """One line of the picture, in the order of the axis."""
    ordered = sorted(points, key=lambda line: _place(of, line))
    if not ordered:
        return
    places = [_place(of, line) for line in ordered]
    heights = [100 * line.exact.value for line in ordered]
    if any(line.run.adaptive for line in ordered):
        style = {**style, "marker": ADAPTIVE_MARKER, "markersize": 11}
        name = f"{name} (adaptive)" if "adaptive" not in name else name
    axes.plot(places, heights, label=name, **{"linewidth": 1.4, "markersize": 5, **style})
    if intervals and all(line.exact.low is not None for line in ordered):
        low, high = ([100 * (getattr(line.exact, end) or 0.0) for line in ordered] for end in ("low", "high"))
        axes.vlines(places, low, high, colors=style["color"], linewidth=0.8, alpha=0.6)


def _draw_axes(axes: Any, of: Table, title: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if of.axis == "tokens" else LogLocator(base=2))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(_AXIS_TITLES[of.axis])
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
