"""Squared distances inside pools of points, tile by tile, each pair of points once.

The points of a pool are cut into blocks; a tile holds the distances of two blocks i <= j and stands for its transpose
too. Where half of all distances fits into memory the tiles are kept, else they are made again for each pass.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .exact import exact_squared, grid_scale

# Tiles kept at a time (64 MiB in float32), points kept at a time, and the sides of a tile: a smaller product of many
# channels runs at a lower rate, so that a pool of up to 512 points is better computed twice than halved.
KEPT_ELEMENTS = 1 << 24
POINT_ELEMENTS = 1 << 24
_SIDE, _SPLIT_FROM = 1024, 512

Rows = Callable[[Tensor], Tensor]


class Tiles:
    """Tiles of B pools of n points, float32 products with a bound on their error, or exact ones.

    Parameters
    ----------
    rows: gives the points ``(k, D)``, float32 or float64, of int64 numbers ``(k,)``.
    numbers: ``(B, n)`` int64, the points of each pool; one pool where not all points fit into `POINT_ELEMENTS`.
    exact: whether distances are to be exact; those of float64 points always are, and all where PyTorch was told to
        multiply float32 numbers in fewer bits: the error would leave too much open.
    """

    def __init__(self, rows: Rows, numbers: Tensor, exact: bool) -> None:
        self._rows = rows
        self._numbers = numbers
        batch, self.n = numbers.shape
        blocks = math.ceil(self.n / _SIDE) if self.n > _SIDE else 1 + (self.n > _SPLIT_FROM)
        side = math.ceil(self.n / blocks)
        self.blocks = [(start, min(start + side, self.n)) for start in range(0, self.n, side)]
        self._dim = rows(numbers[0, :0]).shape[1]
        self._whole = self.take(numbers) if numbers.numel() * self._dim <= POINT_ELEMENTS else None
        self.norms = torch.cat([torch.linalg.vector_norm(self.points(*b), dim=-1) for b in self.blocks], dim=1)
        self.largest_norm = self.norms.amax(dim=1)  # (B,)
        self.exact = exact or self.norms.dtype == torch.float64 or _narrowed()
        self.scale = grid_scale(self.largest_norm)
        self._kept = list(self._make()) if batch * self.n * (self.n + side) // 2 <= KEPT_ELEMENTS else None

    def points(self, start: int, stop: int) -> Tensor:
        """``(B, stop - start, D)``: points of each pool."""
        return self.take(self._numbers[:, start:stop]) if self._whole is None else self._whole[:, start:stop]

    def of_pool(self, item: int, chosen: Tensor) -> Tensor:
        """``(k, D)``: points ``chosen (k,)`` of one pool."""
        return self.take(self._numbers[item, chosen]) if self._whole is None else self._whole[item, chosen]

    def take(self, numbers: Tensor) -> Tensor:
        """``(..., D)``: points of these numbers."""
        return self._rows(numbers.flatten()).view(*numbers.shape, self._dim)

    @property
    def error(self) -> Tensor:
        """``(B,)``: what the squared distances are off by at most, zero for exact ones.

        Products of float32 are summed in blocks; what was measured, for 64 to 8192 channels, is 20 half units in the
        last place of the largest squared norm, and plain summation adds about sqrt(D).
        """
        if self.exact:
            return torch.zeros_like(self.largest_norm)
        return self.largest_norm.square() * ((32 + math.sqrt(self._dim)) * 2**-24)

    def __iter__(self) -> Iterator[tuple[tuple[int, int], tuple[int, int], Tensor]]:
        """Yield (rows, columns, tile ``(B, rows, columns)``). Tiles must not be written to."""
        return iter(self._make() if self._kept is None else self._kept)

    def exactly(self, item: int) -> "Tiles":
        """Exact distances of one pool."""
        return Tiles(self._rows, self._numbers[item : item + 1], exact=True)

    def rows(self, item: int, chosen: Tensor) -> Tensor:
        """Distances ``(k, n)`` of points ``chosen (k,)`` of one pool, as they stand in its tiles."""
        return self.columns(chosen.expand(len(self._numbers), -1))[item].mT

    def columns(self, chosen: Tensor) -> Tensor:
        """Distances ``(B, n, m)`` to points ``chosen (B, m)``: slices of the tiles, or a product if none are kept."""
        if self._kept is not None:
            return self._sliced(chosen)
        points, norms = self.take(self._numbers.gather(1, chosen)), self.norms.gather(1, chosen)
        parts = [self._squared(self.points(*b), points, self.norms[:, slice(*b)], norms) for b in self.blocks]
        return torch.cat(parts, dim=1)

    def _sliced(self, chosen: Tensor) -> Tensor:
        assert self._kept is not None
        if len(self._kept) == 1:
            return self._kept[0][2].gather(2, chosen[:, None, :].expand(-1, self.n, -1))
        found = self._kept[0][2].new_empty(chosen.shape[0], self.n, chosen.shape[1])
        for rows, columns, tile in self._kept:
            _take(found, rows, columns, tile, chosen)
            if rows != columns:
                _take(found, columns, rows, tile.mT, chosen)
        return found

    def _make(self) -> Iterator[tuple[tuple[int, int], tuple[int, int], Tensor]]:
        for i, rows in enumerate(self.blocks):
            left, own = self.points(*rows), self.norms[:, slice(*rows)]
            for columns in self.blocks[i:]:
                right = left if columns == rows else self.points(*columns)
                tile = self._squared(left, right, own, self.norms[:, slice(*columns)])
                if columns == rows:
                    tile.diagonal(dim1=1, dim2=2).zero_()
                yield rows, columns, tile

    def _squared(self, left: Tensor, right: Tensor, left_norms: Tensor, right_norms: Tensor) -> Tensor:
        if self.exact:
            return exact_squared(left, right, self.scale)
        squares = left_norms.square()[:, :, None] + right_norms.square()[:, None, :]
        return squares.baddbmm_(left, right.mT, alpha=-2).clamp_min_(0)


def _take(found: Tensor, rows: tuple[int, int], columns: tuple[int, int], tile: Tensor, chosen: Tensor) -> None:
    """Fill in the rows of those chosen points that lie in the tile's columns."""
    inside = (chosen >= columns[0]) & (chosen < columns[1])
    place = (chosen - columns[0]).clamp(0, tile.shape[2] - 1)[:, None, :].expand(-1, tile.shape[1], -1)
    part = found[:, slice(*rows)]
    part.copy_(torch.where(inside[:, None, :], tile.gather(2, place), part))


def _narrowed() -> bool:
    """Whether this process has let products of float32 numbers on the CPU have fewer bits (`fp32_precision`)."""
    generic = getattr(torch.backends, "fp32_precision", None)
    if generic is None:  # before 2.9
        return torch.get_float32_matmul_precision() != "highest"
    return not {"bf16", "tf32"}.isdisjoint({generic, torch.backends.mkldnn.matmul.fp32_precision})  # type: ignore[attr-defined]
