"""Looks of things in the synthetic world: palette, shape masks, surface patterns, and a 5 x 7 font."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

PALETTE = {
    "red": (220, 40, 40),
    "green": (40, 180, 50),
    "blue": (50, 80, 230),
    "yellow": (235, 220, 50),
    "purple": (150, 50, 190),
    "orange": (245, 140, 30),
    "cyan": (60, 215, 225),
    "pink": (250, 140, 190),
}
COLORS = tuple(PALETTE)
SHAPES = ("circle", "square", "triangle", "cross", "ring", "star", "diamond", "heart", "moon", "bar", "hourglass")
MORE_SHAPES = ("arrow", "tee", "ell", "gate", "wedge")
"""Shapes that only world 2 has."""
PATTERNS = ("plain", "striped", "dotted", "checked")
COUNTS = ("one", "two", "three", "four", "five")
SIGN_WORDS = ("bus", "cat", "cup", "dog", "hen", "key", "map", "sun")

_FONT = {
    "0": "01110 10001 10011 10101 11001 10001 01110",
    "1": "00100 01100 00100 00100 00100 00100 01110",
    "2": "01110 10001 00001 00110 01000 10000 11111",
    "3": "11110 00001 00001 01110 00001 00001 11110",
    "4": "00010 00110 01010 10010 11111 00010 00010",
    "5": "11111 10000 11110 00001 00001 10001 01110",
    "6": "00110 01000 10000 11110 10001 10001 01110",
    "7": "11111 00001 00010 00100 01000 01000 01000",
    "8": "01110 10001 10001 01110 10001 10001 01110",
    "9": "01110 10001 10001 01111 00001 00010 01100",
    "a": "01110 10001 10001 11111 10001 10001 10001",
    "b": "11110 10001 10001 11110 10001 10001 11110",
    "c": "01110 10001 10000 10000 10000 10001 01110",
    "d": "11100 10010 10001 10001 10001 10010 11100",
    "e": "11111 10000 10000 11110 10000 10000 11111",
    "g": "01110 10001 10000 10111 10001 10001 01110",
    "h": "10001 10001 10001 11111 10001 10001 10001",
    "k": "10001 10010 10100 11000 10100 10010 10001",
    "m": "10001 11011 10101 10101 10001 10001 10001",
    "n": "10001 11001 10101 10011 10001 10001 10001",
    "o": "01110 10001 10001 10001 10001 10001 01110",
    "p": "11110 10001 10001 11110 10000 10000 10000",
    "s": "01111 10000 10000 01110 00001 00001 11110",
    "t": "11111 00100 00100 00100 00100 00100 00100",
    "u": "10001 10001 10001 10001 10001 10001 01110",
    "y": "10001 10001 01010 00100 00100 00100 00100",
}
_GLYPH_SCALE = 2
_SUPERSAMPLING = 4


def sign_size(text: str) -> tuple[int, int]:
    """(width, height) in pixels of the sign with `text`."""
    return 12 * len(text) + 4, 7 * _GLYPH_SCALE + 4


@cache
def sign_mask(text: str) -> Array:
    """Mask of the letters of a sign, (height, width): 1 on a letter, 0 elsewhere."""
    width, height = sign_size(text)
    mask = np.zeros((height, width), np.float32)
    for position, letter in enumerate(text):
        rows = np.array([[int(bit) for bit in row] for row in _FONT[letter].split()], np.float32)
        glyph = np.kron(rows, np.ones((_GLYPH_SCALE, _GLYPH_SCALE), np.float32))
        left = 3 + 12 * position
        mask[2 : 2 + glyph.shape[0], left : left + glyph.shape[1]] = glyph
    return mask


@cache
def shape_mask(shape: str, size: int) -> Array:
    """Anti-aliased coverage in [0, 1] of a shape, (size, size)."""
    fine = size * _SUPERSAMPLING
    y, x = np.mgrid[0:fine, 0:fine] / (fine - 1) * 2 - 1
    radius, angle = np.hypot(x, y), np.arctan2(x, -y)
    lobes = np.hypot(np.abs(x) - 0.45, y + 0.38) < 0.5
    inside = {
        "circle": radius < 0.95,
        "square": np.maximum(np.abs(x), np.abs(y)) < 0.84,
        "triangle": (y < 0.85) & (y > 1.75 * np.abs(x) - 0.95),
        "cross": np.minimum(np.abs(x), np.abs(y)) < 0.3,
        "ring": (radius < 0.98) & (radius > 0.52),
        "star": radius < 0.4 + 0.58 * np.abs(np.cos(2.5 * angle)) ** 3,
        "diamond": np.abs(x) + np.abs(y) < 0.98,
        "heart": lobes | ((y > -0.3) & (np.abs(x) < 0.92 - 0.95 * (y + 0.3) / 1.25)),
        "moon": (radius < 0.96) & (np.hypot(x - 0.5, y) > 0.76),
        "bar": np.abs(y) < 0.36,
        "hourglass": np.abs(x) < np.abs(y) * 0.95,
        "arrow": ((y < 0.1) & (y > 1.1 * np.abs(x) - 0.95)) | ((np.abs(x) < 0.3) & (np.abs(y) < 0.9)),
        "tee": (np.maximum(np.abs(x), np.abs(y)) < 0.9) & ((y < -0.35) | (np.abs(x) < 0.27)),
        "ell": (np.maximum(np.abs(x), np.abs(y)) < 0.9) & ((y > 0.35) | (x < -0.35)),
        "gate": (np.maximum(np.abs(x), np.abs(y)) < 0.9) & ((y < -0.4) | (np.abs(x) > 0.4)),
        "wedge": (np.maximum(np.abs(x), np.abs(y)) < 0.9) & (y > x),
    }[shape]
    blocks = inside.reshape(size, _SUPERSAMPLING, size, _SUPERSAMPLING)
    return blocks.mean((1, 3)).astype(np.float32)


@cache
def pattern_shade(pattern: str, size: int) -> Array:
    """Brightness factor of a surface pattern, (size, size): 1 = full colour, lower = darker."""
    y, x = np.mgrid[0:size, 0:size]
    ink = {
        "plain": np.zeros((size, size), bool),
        "striped": (x + y) % 6 < 3,
        "dotted": (x % 5 - 2) ** 2 + (y % 5 - 2) ** 2 < 2,
        "checked": (x // 4 + y // 4) % 2 == 1,
    }[pattern]
    return np.where(ink, np.float32(0.45), np.float32(1.0))
