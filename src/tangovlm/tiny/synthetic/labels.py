"""Dense labels for training the vision tower: the attributes of the thing that fills each cell of a frame."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .glyphs import COLORS, MORE_SHAPES, PATTERNS, SHAPES, SIGN_WORDS
from .render import CELL, GRID
from .world import Clip, Thing

ALL_SHAPES = (*SHAPES, *MORE_SHAPES)

ATTRIBUTES = {
    "color": len(COLORS) + 1,
    "shape": len(ALL_SHAPES) + 1,
    "pattern": len(PATTERNS) + 1,
    "count": 6,
    "tens": 11,
    "units": 11,
    "word": len(SIGN_WORDS) + 1,
    "center": 2,
}
"""Attribute -> number of classes; class 0 always means "none"."""


def cell_labels(clip: Clip, times: Sequence[float], owners: NDArray[np.int8]) -> NDArray[np.int8]:
    """Attribute classes of each cell, int8 (frames, 8, 8, attributes); `owners` is returned by `render`."""
    table = np.array([[0] * len(ATTRIBUTES), *(_classes(thing) for thing in clip.things)], np.int8)
    labels = table[owners]
    for frame, time in enumerate(times):
        for number, thing in enumerate(clip.things, start=1):
            if thing.role == "sign" or not thing.start <= time < thing.end:
                continue
            for x, y in thing.at(time):
                row, column = min(int(y // CELL), GRID - 1), min(int(x // CELL), GRID - 1)
                labels[frame, row, column, -1] |= owners[frame, row, column] == number
    return labels


def _classes(thing: Thing) -> list[int]:
    if thing.role == "sign":
        number = [int(digit) + 1 for digit in thing.text] if thing.text.isdigit() else [0, 0]
        word = 0 if thing.text.isdigit() else SIGN_WORDS.index(thing.text) + 1
        return [0, 0, 0, 0, *number, word, 0]
    looks = COLORS.index(thing.color) + 1, ALL_SHAPES.index(thing.shape) + 1, PATTERNS.index(thing.pattern) + 1
    return [*looks, len(thing.points), 0, 0, 0, 0]
