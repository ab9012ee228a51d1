"""ST-RoPE: spatio-temporal rotary positions for distances between tokens (Tango paper, arXiv 2604.09547, Eq. 6-8).

The channels of a token are split into three consecutive blocks (time | row | column). Inside a block of size d with
base B, channels k and k + d/2 are rotated by the angle ``p * B^(-2k/d)``, where p is the time in seconds, the row or
the column.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import InputError
from ...kernels.st_rope import Rotation, Tables, rotate_rows, unit_rows

Sections = tuple[int, int, int]


def default_sections(dim: int) -> Sections:
    """Block sizes (time, row, column) for ``dim`` channels: row = column = largest even number <= dim / 3.

    >>> default_sections(3584)
    (1196, 1194, 1194)
    """
    space = dim // 3 // 2 * 2
    return dim - 2 * space, space, space


def neighbors_as_halves(sections: Sections) -> Tensor:
    """``(D,)``: a permutation of the channels that moves the pairs (2k, 2k + 1) of each block to (k, k + d // 2).

    >>> neighbors_as_halves((4, 3, 0)).tolist()
    [0, 2, 1, 3, 4, 5, 6]
    """
    order, start = [], 0
    for size in sections:
        even = size // 2 * 2
        order += [
            *range(start, start + even, 2),
            *range(start + 1, start + even, 2),
            *range(start + even, start + size),
        ]
        start += size
    return torch.tensor(order)


def rotation_tables(
    times_s: Tensor,
    grid: tuple[int, int, int],
    *,
    sections: Sections | None = None,
    base_time: float = 1e4,
    base_space: float = 1e3,
    dtype: torch.dtype = torch.float32,
) -> Tables:
    """Angles of ST-RoPE for tokens ``(H, W, D)`` of frames at ``times_s (T,)`` seconds.

    Parameters
    ----------
    times_s: on the device of the tables.
    grid: (H, W, D).

    Raises
    ------
    InputError: the sections do not sum to D.
    """
    height, width, dim = grid
    sections = sections or default_sections(dim)
    if sum(sections) != dim:
        raise InputError(
            f"rope_sections {sections} sum to {sum(sections)} but tokens have {dim} channels: make them equal"
        )
    rows, columns = (torch.arange(n, device=times_s.device) for n in (height, width))
    bases = (base_time, base_space, base_space)
    time, row, column = (
        _table(position, size // 2, base, dtype)
        for position, size, base in zip((times_s, rows, columns), sections, bases, strict=True)
    )
    return Tables((len(times_s), height, width), time, row, column, sections)


def st_rope(
    unit: Tensor,
    times_s: Tensor,
    *,
    sections: Sections | None = None,
    base_time: float = 1e4,
    base_space: float = 1e3,
) -> Tensor:
    """Rotate unit tokens ``(T, H, W, D)`` by their time ``times_s (T,)`` in seconds and their position in the grid.

    An odd last channel of a block is not rotated. Returns a new tensor of the shape and type of ``unit``.

    Raises
    ------
    InputError: the sections do not sum to D.
    """
    _, height, width, dim = unit.shape
    tables = rotation_tables(
        times_s.to(unit.device),
        (height, width, dim),
        sections=sections,
        base_time=base_time,
        base_space=base_space,
        dtype=unit.dtype,
    )
    flat = unit.flatten(0, 2)
    every = torch.arange(len(flat), device=unit.device)
    return rotate_rows(flat, every, flat.new_ones(len(flat)), tables).view_as(unit)


@dataclass(frozen=True, eq=False)
class Points:
    """The points between which distances are measured: unit tokens, rotated or not, computed on request.

    Parameters
    ----------
    features: ``(N, D)``, any floating type.
    norms: ``(N,)`` float32 or float64, never zero.
    tables: in the dtype of ``norms``; None means no rotation.
    """

    features: Tensor
    norms: Tensor
    tables: Tables | None

    def at(self, index: Tensor) -> Tensor:
        """``(M, D)``: the points of tokens ``index (M,)``, in the dtype of ``norms``."""
        if self.tables is None:
            return unit_rows(self.features, index, self.norms)
        return rotate_rows(self.features, index, self.norms, self.tables)


def _table(position: Tensor, half: int, base: float, dtype: torch.dtype) -> Rotation:
    """cos and sin ``(n, half)`` of positions ``(n,)``. Angles are float64, since late frames have large angles."""
    exponents = torch.arange(half, device=position.device, dtype=torch.float64) / max(half, 1)
    angles = position.double()[:, None] * base**-exponents
    return angles.cos().to(dtype), angles.sin().to(dtype)
