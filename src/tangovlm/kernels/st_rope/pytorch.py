"""ST-RoPE in PyTorch: gathers, normalizes and rotates tokens in slabs that fit into the cache."""

from dataclasses import dataclass

import torch
from torch import Tensor

_SLAB_ELEMENTS = 1 << 20  # 4 MiB in float32

Rotation = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Tables:
    """Cosines and sines of the angles of ST-RoPE for the tokens of a video in raster order.

    They are separable: one table each for time, rows and columns, never a tensor of the size of the features.

    Parameters
    ----------
    shape: (T, H, W).
    time, row, column: (cos, sin), each ``(T, d_t // 2)``, ``(H, d_h // 2)`` and ``(W, d_w // 2)``; float32 or float64.
    sections: (d_t, d_h, d_w), channels of each block; they sum to D.
    """

    shape: tuple[int, int, int]
    time: Rotation
    row: Rotation
    column: Rotation
    sections: tuple[int, int, int]

    def blocks(self, index: Tensor) -> list[tuple[int, Tensor, Rotation]]:
        """(channels, indices ``(M,)`` into the table, table) of each block, for tokens ``index (M,)``."""
        _, height, width = self.shape
        positions = (index // (height * width), index // width % height, index % width)
        return list(zip(self.sections, positions, (self.time, self.row, self.column), strict=True))


def rotate_rows_torch(features: Tensor, index: Tensor, norms: Tensor, tables: Tables) -> Tensor:
    """See `tangovlm.kernels.st_rope.rotate_rows`."""
    rotated = norms.new_empty(len(index), features.shape[1])
    step = max(1, _SLAB_ELEMENTS // features.shape[1])
    for part, some in zip(torch.split(rotated, step), torch.split(index, step), strict=True):
        _rotate(unit_rows(features, some, norms), some, tables, part)
    return rotated


def unit_rows(features: Tensor, index: Tensor, norms: Tensor) -> Tensor:
    """``features[index]``, each divided by its norm, in the dtype of ``norms (N,)``."""
    return features.index_select(0, index).to(norms.dtype).div_(norms[index, None])


def _rotate(tokens: Tensor, index: Tensor, tables: Tables, rotated: Tensor) -> None:
    start = 0
    for size, place, table in tables.blocks(index):
        half = size // 2
        cos, sin = (values.index_select(0, place) for values in table)
        first, second = tokens[:, start : start + half], tokens[:, start + half : start + 2 * half]
        torch.mul(first, cos, out=rotated[:, start : start + half]).addcmul_(second, sin, value=-1)
        torch.mul(second, cos, out=rotated[:, start + half : start + 2 * half]).addcmul_(first, sin)
        rotated[:, start + 2 * half : start + size] = tokens[:, start + 2 * half : start + size]
        start += size
