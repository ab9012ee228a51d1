"""DPC-KNN in PyTorch, on any device, over batches, in tiles of bounded size.

Distances come from a matrix product, which rounds in an order of its own: without care d(a, b) and d(b, a), or the
distances of equal points, differ in the last bits, and rounding decides ties. So the points are put on a grid so fine
that it costs less than float32 does, and so coarse that every product and sum is an exact integer in float64.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

_TILE_ELEMENTS = 1 << 24  # distances held at a time: 64 MiB in float32
_GRID_BITS = 26  # products then have at most 53 bits


class Peaks(NamedTuple):
    """Clusters of B batches of n points around m centres, all int64."""

    centers: Tensor  # (B, m) ascending
    order: Tensor  # (B, m) the same centres by descending score
    labels: Tensor  # (B, n) cluster of each point, a column of `centers`


def dpc_knn(points: Tensor, centers: int, neighbors: int, *, include_self: bool = False) -> Peaks:
    """Choose ``centers`` density peaks among the points of each batch and assign every point to the nearest.

    With Euclidean distances d: density rho_i = exp(-mean of d_ij^2 over the ``neighbors`` nearest j), and delta_i the
    distance to the nearest denser point, or the largest distance of the batch for the densest. Centres have the
    largest rho * delta. j is denser than i if rho_j > rho_i, or if they are equal and j < i; every other tie goes to
    the lowest index as well, and a centre is always in its own cluster, so that no cluster is empty. Densities and
    scores are compared by their logarithms: on features of large norm exp(-d^2) is zero for most points.

    Parameters
    ----------
    points: ``(B, n, D)`` float32 or float64, the type of the distances; coordinates are rounded to about 2^-26 of the
        largest norm of their batch.
    centers: m, 1 to n.
    neighbors: points that the density looks at, at most as many as there are.
    include_self: whether a point is a neighbour of itself.
    """
    batch, n, _ = points.shape
    at_once = max(1, _TILE_ELEMENTS // (n * n))
    parts = [
        _cluster(points[start : start + at_once], centers, neighbors, include_self)
        for start in range(0, batch, at_once)
    ]
    return Peaks(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _cluster(points: Tensor, centers: int, neighbors: int, include_self: bool) -> Peaks:
    distances = _Distances(points)
    spread, largest = _spread(distances, neighbors, include_self)
    score = 0.5 * _separation(distances, spread, largest).double().log() - spread
    order = score.sort(dim=-1, descending=True, stable=True).indices[:, :centers]
    chosen = order.sort(dim=-1).values
    labels = torch.cat([tile.argmin(dim=-1) for tile in distances.columns(chosen)], dim=1)
    labels.scatter_(1, chosen, torch.arange(centers, device=points.device).expand_as(chosen))
    return Peaks(chosen, order, labels)


def _spread(distances: "_Distances", neighbors: int, include_self: bool) -> tuple[Tensor, Tensor]:
    """-log rho ``(B, n)``, and the largest squared distance ``(B, 1)``."""
    skipped = 0 if include_self else 1
    nearest = min(neighbors + skipped, distances.n)
    means, largest = [], []
    for _, tile in distances.tiles():
        closest = tile.topk(nearest, dim=-1, largest=False, sorted=True).values[..., skipped:]
        means.append(closest.sum(-1) / max(closest.shape[-1], 1))
        largest.append(tile.amax(dim=(1, 2)))
    return torch.cat(means, dim=1), torch.stack(largest, dim=1).amax(dim=1, keepdim=True)


def _separation(distances: "_Distances", spread: Tensor, largest: Tensor) -> Tensor:
    """delta^2 ``(B, n)``."""
    by_density = spread.sort(dim=-1, stable=True).indices
    rank = torch.empty_like(by_density).scatter_(
        1, by_density, torch.arange(distances.n, device=spread.device).expand_as(by_density)
    )
    parts = []
    for start, tile in distances.tiles():
        own = rank[:, start : start + tile.shape[1], None]
        parts.append(tile.masked_fill(rank[:, None, :] >= own, torch.inf).amin(dim=-1))
    return torch.where(rank == 0, largest, torch.cat(parts, dim=1))


class _Distances:
    """Squared distances of ``(B, n, D)`` points as tiles ``(B, rows, n)``; one tile is kept, several are recomputed."""

    def __init__(self, points: Tensor) -> None:
        self.n = points.shape[1]
        self._dtype = points.dtype
        norms = torch.linalg.vector_norm(points, dim=-1, keepdim=True).amax(dim=1, keepdim=True).double()
        # Scaled by a power of two, norms are below 4/3 and their products below 2.
        scale = torch.exp2(_GRID_BITS - torch.frexp(norms * 0.75).exponent.double())
        self._points = (points * scale).round_()
        self._norms: Tensor = torch.linalg.vecdot(self._points, self._points)
        self._unit = scale.square().reciprocal_()
        self._rows = min(self.n, max(1, _TILE_ELEMENTS // (points.shape[0] * self.n)))
        self._whole = self._squared(slice(None), self._points, self._norms) if self._rows == self.n else None

    def tiles(self) -> Iterator[tuple[int, Tensor]]:
        """Yield (first row, tile). Tiles must not be written to."""
        if self._whole is not None:
            yield 0, self._whole
            return
        for start, rows in self._slices():
            yield start, self._squared(rows, self._points, self._norms)

    def columns(self, chosen: Tensor) -> Iterator[Tensor]:
        """Yield tiles ``(B, rows, m)`` of the columns ``chosen (B, m)``."""
        if self._whole is not None:
            yield self._whole.gather(2, chosen[:, None, :].expand(-1, self.n, -1))
            return
        points = self._points.gather(1, chosen[..., None].expand(-1, -1, self._points.shape[2]))
        norms = self._norms.gather(1, chosen)
        for _, rows in self._slices():
            yield self._squared(rows, points, norms)

    def _slices(self) -> Iterator[tuple[int, slice]]:
        for start in range(0, self.n, self._rows):
            yield start, slice(start, min(start + self._rows, self.n))

    def _squared(self, rows: slice, points: Tensor, norms: Tensor) -> Tensor:
        """``|a|^2 + |b|^2 - 2ab``, never below zero, in the type of the points."""
        products = self._points[:, rows] @ points.mT
        sums = self._norms[:, rows, None] + norms[:, None, :]
        return sums.sub_(products, alpha=2).clamp_min_(0).mul_(self._unit).to(self._dtype)
