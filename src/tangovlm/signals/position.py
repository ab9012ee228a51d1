"""ST-RoPE: spatio-temporal rotary positions for distances between tokens (Tango paper, arXiv 2604.09547, Eq. 6-8).

The channels of a token are split into three consecutive blocks (time | row | column). Inside a block of size d with
base B, channels k and k + d/2 are rotated by the angle ``p * B^(-2k/d)``, where p is the time in seconds, the row or
the column. The tables are separable: (T, d_t/2), (H, d_h/2) and (W, d_w/2), never of the size of the features.
"""

import torch
from torch import Tensor

from ..errors import InputError

Sections = tuple[int, int, int]


def default_sections(dim: int) -> Sections:
    """Block sizes (time, row, column) for ``dim`` channels: row = column = largest even number <= dim / 3.

    >>> default_sections(3584)
    (1196, 1194, 1194)
    """
    space = dim // 3 // 2 * 2
    return dim - 2 * space, space, space


def st_rope(
    unit: Tensor,
    times_s: Tensor,
    *,
    sections: Sections | None = None,
    base_time: float = 1e4,
    base_space: float = 1e3,
) -> Tensor:
    """Rotate unit tokens ``(T, H, W, D)`` by their time ``times_s (T,)`` in seconds and their place in the grid.

    An odd last channel of a block is not rotated. Returns a new tensor of the shape and type of ``unit``.

    Raises
    ------
    InputError: sections that do not sum to D.
    """
    frames, height, width, dim = unit.shape
    sections = sections or default_sections(dim)
    if sum(sections) != dim:
        raise InputError(
            f"rope_sections {sections} sum to {sum(sections)} but tokens have {dim} channels: make them equal"
        )
    device = unit.device
    coordinates = (
        (times_s.to(device, torch.float64).view(frames, 1, 1), base_time),
        (torch.arange(height, device=device, dtype=torch.float64).view(1, height, 1), base_space),
        (torch.arange(width, device=device, dtype=torch.float64).view(1, 1, width), base_space),
    )
    rotated = unit.clone()
    start = 0
    for (position, base), size in zip(coordinates, sections, strict=True):
        half = size // 2
        first, second = unit[..., start : start + half], unit[..., start + half : start + 2 * half]
        cos, sin = _tables(position, half, base, unit.dtype)
        rotated[..., start : start + half] = first * cos - second * sin
        rotated[..., start + half : start + 2 * half] = second * cos + first * sin
        start += size
    return rotated


def _tables(position: Tensor, half: int, base: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin, shape of ``position`` plus (half,). Angles are float64: a late second is a large angle."""
    exponents = torch.arange(half, device=position.device, dtype=torch.float64) / max(half, 1)
    angles = position[..., None] * base**-exponents
    return angles.cos().to(dtype), angles.sin().to(dtype)
