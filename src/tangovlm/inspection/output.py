"""Files of numbers and pictures, and what the pictures have in common."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from tangovlm.report import write_whole
from tangovlm.report.palette import HEAT_STOPS, Pixels

WIDTH_IN, DPI = 10, 100
"""Size of a picture: 1,000 pixels wide."""
_DIGITS = 9
_PALETTE = 255
_LARGE_BYTES = 200_000
_LINE, _NAME = 105, 60
"""Letters of a title in a line, and of the name of a model in it."""
_LOWEST_IN, _HIGHEST_IN = 1.3, 3.0
"""Height of a row of pictures: its label has room, and pictures that are higher than wide are no larger than others."""
_MARGIN_IN = 0.1
_LABEL_IN, _LINE_IN = 1.3, 0.17
"""Width of a label that is written beside a row, and height of a line of it."""
_POINTS = 72
"""In an inch."""

Row: TypeAlias = dict[str, Any]


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write rows with the same names as CSV; floats have nine significant digits, None and NaN are empty.

    Raises
    ------
    InputError: the file cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    write_whole(path, text.getvalue().encode())


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if value != value else f"{value:.{_DIGITS}g}"
    return value


def new_figure(height_in: float) -> Any:
    """An empty figure of matplotlib, 1,000 pixels wide, whose parts do not overlap."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    # The layout of pictures with a fixed shape is a few pixels off, by which labels would leave the figure.
    return Figure(figsize=(WIDTH_IN, height_in), dpi=DPI, layout=ConstrainedLayoutEngine(w_pad=_MARGIN_IN))


def save(path: Path, figure: Any) -> None:
    """Write a figure as PNG; a large one with a palette, which is a third as large.

    Raises
    ------
    InputError: the file cannot be written.
    """
    from PIL import Image

    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", pil_kwargs={"optimize": True})
    if drawn.tell() > _LARGE_BYTES:
        with Image.open(drawn) as picture:
            # Colours that few pixels have, as in the scale beside a picture, get entries too.
            method = Image.Quantize.MAXCOVERAGE
            small = picture.convert("RGB").quantize(_PALETTE, method=method, dither=Image.Dither.NONE)
        drawn = io.BytesIO()
        small.save(drawn, "PNG", optimize=True)
    write_whole(path, drawn.getvalue())


def set_title(figure: Any, model: str, text: str) -> None:
    """Write the title of a figure: the model, or the end of its name if that is long, and what is drawn."""
    name = model if len(model) <= _NAME else f"...{model[3 - _NAME :]}"
    lines = textwrap.fill(f"{name}: {text}", _LINE, break_on_hyphens=False)
    figure.suptitle(lines, fontsize=11)


def counted(number: int, noun: str) -> str:
    """A number of things in words.

    >>> counted(1, "clip"), counted(2, "clip")
    ('1 clip', '2 clips')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def row_height(columns: int, aspect: float, width_in: float = 8.8) -> float:
    """Inches of a row of so many pictures side by side, which are `aspect` times as wide as high."""
    return min(max(width_in / columns / aspect, _LOWEST_IN), _HIGHEST_IN)


def labelled_row(columns: int, aspect: float, lines: int, width_in: float = 8.8) -> tuple[float, float, bool]:
    """Such a row with a label of so many lines, which is written from bottom to top if the row is high enough for it.

    Returns
    -------
    The height of the row and the width of its pictures, in inches, and whether the label is horizontal.
    """
    if width_in / columns / aspect >= _LOWEST_IN:
        return row_height(columns, aspect, width_in), width_in, False
    left = width_in - _LABEL_IN
    return max(left / columns / aspect, _LINE_IN * lines), left, True


def label_row(axes: Any, text: str, size: float, *, horizontal: bool) -> None:
    """Write the label of a row of pictures left of the first."""
    if horizontal:
        axes.set_ylabel(text, fontsize=size, rotation=0, ha="right", va="center")
    else:
        axes.set_ylabel(text, fontsize=size)


def number_size(grid: tuple[int, int], columns: int, aspect: float, width_in: float = 8.8) -> float:
    """Font size in which a number of two digits fits a token of such a row of pictures, at most 9; 0 if none does."""
    height, width = grid
    picture_in = min(width_in / columns, row_height(columns, aspect, width_in) * aspect)
    points = min(_POINTS * picture_in / width * 0.75, _POINTS * picture_in / aspect / height * 0.9, 9.0)
    return points if points >= 5 else 0.0


def heat_map() -> Any:
    """The colours of `palette.heat_colours` as a map of matplotlib, dark for low values and bright for high ones."""
    from matplotlib.colors import LinearSegmentedColormap

    stops = [(stop, tuple(channel / 255 for channel in colour)) for stop, colour in HEAT_STOPS]
    return LinearSegmentedColormap.from_list("heat", stops)


def shown_steps(steps: int, most: int) -> list[int]:
    """At most so many steps of a clip, evenly spaced.

    >>> shown_steps(16, 4), shown_steps(2, 4)
    ([2, 6, 10, 14], [0, 1])
    """
    count = min(steps, most)
    return [(2 * number + 1) * steps // (2 * count) for number in range(count)]


def draw_frame(axes: Any, picture: Pixels, grid: tuple[int, int], aspect: float) -> None:
    """Draw a frame in the coordinates of its token grid: the centre of a token has whole numbers.

    Parameters
    ----------
    aspect: width divided by height in which the video shows the picture.
    """
    height, width = grid
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    axes.imshow(picture, extent=extent, aspect=width / (height * aspect))


def grey(picture: Pixels) -> Pixels:
    """A picture without colours, so that those drawn over it are visible."""
    return np.repeat(picture.mean(axis=-1, keepdims=True).astype(np.uint8), 3, axis=-1)


def hide_ticks(axes: Any) -> None:
    """Remove the ticks of a picture."""
    axes.set_xticks([])
    axes.set_yticks([])


def outlined(colour: str = "white", width: float = 2.0) -> dict[str, Any]:
    """Arguments of a text of matplotlib that is readable on any colour."""
    from matplotlib.patheffects import withStroke

    return {"color": colour, "path_effects": [withStroke(linewidth=width, foreground="black")]}
