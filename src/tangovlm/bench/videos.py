"""Synthetic visual tokens with scenes and objects, the same on every machine and device.

A frame shows objects: regions of the grid whose tokens share a direction, plus a texture per token. "still" videos have
four scenes, with 1/2, 1/4, 1/8 and 1/8 of the frames; within a scene, a fifth of the positions changes with every frame
and the others change only by noise. In "busy" videos every frame is a new scene.
"""

import reprlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from tangovlm.errors import InputError
from tangovlm.tokens import VideoTokens

KINDS = ("still", "busy")
_MOST_DIGITS = 9
_SCENES = (0.5, 0.75, 0.875)
_OBJECTS = 12
_CHANGING = 0.2
_TEXTURE, _NOISE, _CHANGE = 0.7, 0.25, 1.2
_KEY_CHANNELS = 72


class Shape(NamedTuple):
    """(T, H, W, D); see `tangovlm.tokens`."""

    frames: int
    height: int
    width: int
    dim: int

    @property
    def tokens(self) -> int:
        """T * H * W."""
        return self.frames * self.height * self.width

    def __str__(self) -> str:
        return "x".join(str(size) for size in self)


def parse_shape(text: str, option: str = "--shape") -> Shape:
    """Read ``T,H,W,D``.

    Raises
    ------
    InputError: not four integers of at least 1 and at most nine digits.
    """
    sizes = [size.strip() for size in text.split(",")]
    if len(sizes) != len(Shape._fields) or not all(map(_is_size, sizes)):
        raise InputError(
            f"{option} is {reprlib.repr(text)}: give frames, rows, columns and channels as T,H,W,D, such as "
            "32,14,14,3584"
        )
    return Shape(*map(int, sizes))


def synthetic(
    shape: Shape, kind: str, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", seed: int = 0
) -> VideoTokens:
    """Make one video of a kind in `KINDS`: tokens, saliency, timestamps (one frame per second), and keys.

    The keys are the first channels of the tokens, as many as a head of SigLIP has, so that like tokens have like keys.
    """
    features = torch.empty(shape, dtype=dtype, device=device)
    saliency = torch.empty(shape[:3], device=device)
    for frame, (values, gaze) in enumerate(_frames(shape, kind, torch.Generator().manual_seed(seed))):
        features[frame], saliency[frame] = values, gaze
    keys = features[..., :_KEY_CHANNELS].clone()
    return VideoTokens(features, saliency, torch.arange(shape.frames, dtype=torch.float64, device=device), keys=keys)


def _is_size(text: str) -> bool:
    # The length first: Python refuses to parse numbers of thousands of digits.
    return text.isdecimal() and len(text) <= _MOST_DIGITS and int(text) >= 1


def _frames(shape: Shape, kind: str, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield features ``(H, W, D)`` and saliency ``(H, W)`` of each frame."""
    grid = (shape.height, shape.width)
    cuts = {round(part * shape.frames) for part in _SCENES} if kind == "still" else range(shape.frames)
    for frame in range(shape.frames):
        if frame == 0 or frame in cuts:
            objects = torch.randn(_OBJECTS, shape.dim, generator=generator)
            shown = objects[_regions(grid, generator)]
            scene = shown + _TEXTURE * torch.randn(*grid, shape.dim, generator=generator)
            changing = torch.rand(grid, generator=generator) < _CHANGING
            gaze = torch.rand(grid, generator=generator)
        noise = torch.randn(*grid, shape.dim, generator=generator)
        values = torch.where(changing[..., None], shown + _CHANGE * noise, scene + _NOISE * noise)
        yield values, 0.8 * gaze + 0.2 * torch.rand(grid, generator=generator)


def _regions(grid: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Object at each position ``(H, W)``: the one with the nearest random centre."""
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    places = torch.rand(_OBJECTS, 2, generator=generator) * torch.tensor(grid)
    distances = (rows[..., None] - places[:, 0]).square() + (columns[..., None] - places[:, 1]).square()
    return distances.argmin(dim=-1)
