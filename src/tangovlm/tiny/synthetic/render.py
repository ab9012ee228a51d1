"""Render clips to frames, with a map of which thing fills which cell."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .glyphs import PALETTE, pattern_shade, shape_mask, sign_mask
from .world import SIDE, Clip, Decoy, Scene, Thing

CELL = 14
GRID = SIDE // CELL
_MARGIN = 24
"""Pixels of background beyond each border of the frame: more than the camera moves in a scene."""
_MIN_COVER = 0.12
"""Fraction of the pixels of a cell that a thing must fill to own it."""


def render(clip: Clip, times: Sequence[float]) -> tuple[NDArray[np.uint8], NDArray[np.int8]]:
    """Render the clip at the given moments.

    Returns
    -------
    frames: uint8 (len(times), 112, 112, 3).
    owners: int8 (len(times), 8, 8), per cell 1 + the index of the thing that fills most of it, 0 for background.
    """
    backgrounds: dict[int, NDArray[np.float32]] = {}
    frames = np.empty((len(times), SIDE, SIDE, 3), np.uint8)
    owners = np.empty((len(times), GRID, GRID), np.int8)
    for index, time in enumerate(times):
        place = next(i for i, s in enumerate(clip.scenes) if s.start <= time < s.end)
        scene = clip.scenes[place]
        if place not in backgrounds:
            backgrounds[place] = _background(np.random.default_rng(scene.background_seed))
        image = _crop(backgrounds[place], scene, time)
        for decoy in scene.decoys:
            if decoy.start <= time < decoy.end:
                _scatter(image, decoy, time)
        pixel_owner = np.zeros((SIDE, SIDE), np.int8)
        for number, thing in enumerate(clip.things, start=1):
            if thing.start <= time < thing.end:
                _paint(image, pixel_owner, thing, number, time)
        noise = np.random.default_rng([clip.noise_seed, round(time * 1000)])
        image += noise.standard_normal((SIDE, SIDE, 1), dtype=np.float32) * 5
        frames[index] = np.clip(image, 0, 255)
        owners[index] = _cell_owners(pixel_owner, len(clip.things))
    return frames, owners


def _scatter(image: NDArray[np.float32], decoy: Decoy, time: float) -> None:
    """Paint a decoy, clipped to the frame."""
    alpha, paint = _decoy_sprite(decoy.kind, decoy.size, decoy.seed)
    x, y = (round(c - decoy.size / 2) for c in decoy.at(time))
    top, left = max(y, 0), max(x, 0)
    bottom, right = min(y + decoy.size, SIDE), min(x + decoy.size, SIDE)
    if top < bottom and left < right:
        part = (slice(top - y, bottom - y), slice(left - x, right - x))
        window = image[top:bottom, left:right]
        window += alpha[part][..., None] * (paint[part] - window)


@lru_cache(maxsize=64)
def _decoy_sprite(kind: str, size: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Coverage (size, size) and colour (size, size, 3) of a decoy."""
    rng = np.random.default_rng(seed)
    alpha, paint = np.zeros((size, size), np.float32), np.zeros((size, size, 3), np.float32)
    colors = np.array(list(PALETTE.values()), np.float32)
    if kind == "confetti":
        specks = int(rng.integers(8, 19))
        places, sizes = rng.integers(0, size - 3, (specks, 2)), rng.integers(2, 4, (specks, 2))
        inks = _brighten(colors[rng.integers(len(colors), size=specks)])
        for (x, y), (width, height), ink in zip(places, sizes, inks, strict=True):
            alpha[y : y + height, x : x + width] = 1
            paint[y : y + height, x : x + width] = ink
        return alpha, paint
    y, x = np.mgrid[0:size, 0:size] / (size - 1) * 2 - 1
    angle, bend = rng.uniform(0, np.pi), rng.uniform(-0.8, 0.8)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    alpha[np.abs(across - bend * (along**2 - 0.4)) < rng.uniform(1.2, 2.4) / size * 2] = 1
    paint[:] = _brighten(colors[int(rng.integers(len(colors)))])
    return alpha, paint


def _brighten(color: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(color + 0.35 * (255 - color), np.float32)


def _paint(image: NDArray[np.float32], pixel_owner: NDArray[np.int8], thing: Thing, number: int, time: float) -> None:
    alpha, paint = _sprite(thing)
    height, width = alpha.shape
    for x, y in thing.at(time):
        left = min(max(round(x - width / 2), 0), SIDE - width)
        top = min(max(round(y - height / 2), 0), SIDE - height)
        window = (slice(top, top + height), slice(left, left + width))
        image[window] += alpha[..., None] * (paint - image[window])
        pixel_owner[window][alpha > 0.5] = number


def _sprite(thing: Thing) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Coverage (h, w) and colour (h, w, 3) of a thing."""
    if thing.role == "sign":
        ink = sign_mask(thing.text)
        board, letters = (235.0, 20.0) if thing.color == "light" else (25.0, 230.0)
        return np.ones_like(ink), (board + ink * (letters - board))[..., None].repeat(3, -1)
    shade = pattern_shade(thing.pattern, thing.width)
    color = np.array(PALETTE[thing.color], np.float32)
    return shape_mask(thing.shape, thing.width), shade[..., None] * color


def _cell_owners(pixel_owner: NDArray[np.int8], things: int) -> NDArray[np.int8]:
    cells = pixel_owner.reshape(GRID, CELL, GRID, CELL).transpose(0, 2, 1, 3).reshape(GRID * GRID, CELL * CELL)
    counts = np.zeros((GRID * GRID, things + 1), np.int64)
    np.add.at(counts, (np.arange(GRID * GRID)[:, None], cells), 1)
    counts[:, 0] = _MIN_COVER * CELL * CELL
    return counts.argmax(1).astype(np.int8).reshape(GRID, GRID)


def _crop(background: NDArray[np.float32], scene: Scene, time: float) -> NDArray[np.float32]:
    """The camera's view of the background: an image that moves by +pan shows a window that moves by -pan."""
    elapsed = time - scene.start
    top, left = round(_MARGIN - scene.pan[1] * elapsed), round(_MARGIN - scene.pan[0] * elapsed)
    return background[top : top + SIDE, left : left + SIDE].copy()


def _background(rng: np.random.Generator) -> NDArray[np.float32]:
    """A greyish gradient with texture, grey boxes, and up to six bright blobs that are not things."""
    side = SIDE + 2 * _MARGIN
    wash = rng.uniform(50, 160) + rng.normal(0, 22, (6, 6, 1)) + rng.normal(0, 9, (6, 6, 3))
    image = np.stack([_stretch(wash[..., channel], side) for channel in range(3)], -1)
    image += _stretch(rng.normal(0, 14, (24, 24)), side)[..., None]
    for _ in range(int(rng.integers(3, 14))):
        x, y = rng.integers(0, side - 8, 2)
        width, height = rng.integers(4, 44, 2)
        image[y : y + height, x : x + width] += rng.normal(0, 22) + rng.normal(0, 5, 3)
    colors = list(PALETTE.values())
    for _ in range(int(rng.integers(0, 7))):
        x, y = rng.integers(0, side - 12, 2)
        width, height = rng.permutation([int(rng.integers(2, 4)), int(rng.integers(5, 13))])
        window = image[y : y + height, x : x + width]
        window += 0.7 * (colors[int(rng.integers(8))] - window)
    return image.astype(np.float32)


def _stretch(coarse: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Bilinear enlargement of a square map to (side, side)."""
    place = np.linspace(0, len(coarse) - 1, side)
    low = np.minimum(place.astype(int), len(coarse) - 2)
    weight = np.zeros((side, len(coarse)))
    rows = np.arange(side)
    weight[rows, low], weight[rows, low + 1] = 1 - (place - low), place - low
    return np.asarray(weight @ coarse @ weight.T)
