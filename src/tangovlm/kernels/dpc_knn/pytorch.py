"""DPC-KNN in PyTorch, on any device, for pools of any sizes, in tiles of bounded size.

On the CPU distances are float32 products with a bound on their error; results that depend on rounding are recomputed
with exact distances (`settle`). On other devices all distances are exact.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from .settle import Estimate, log_score, mean_of_sorted, settle_labels, settle_order
from .tiles import KEPT_ELEMENTS, Block, PointSource, Tiles

# Coordinates of small pools processed at a time: 16 MiB in float32, to fit the cache of a CPU.
_RUN_ELEMENTS = 1 << 22
_CENTERS = 4096  # centres that a block of points is compared with at a time


class Peaks(NamedTuple):
    """Clusters around density peaks, all int64; with a batch dimension for pools of equal size only."""

    centers: Tensor  # ascending in each pool
    order: Tensor  # the same centres, by descending score if that was requested
    labels: Tensor  # cluster of each point, an index into `centers`


def dpc_knn_torch(
    points_at: PointSource,
    sizes: Sequence[int],
    centers: Sequence[int],
    neighbors: int,
    include_self: bool,
    ordered: bool,
    device: torch.device,
) -> Peaks:
    """See `tangovlm.kernels.dpc_knn.dpc_knn_ragged`."""
    dim = points_at(torch.zeros(0, dtype=torch.int64, device=device)).shape[1]
    parts, point, cluster = [], 0, 0
    for n, m, pools in _runs(sizes, centers, dim):
        numbers = torch.arange(point, point + pools * n, device=device).view(pools, n)
        found = _cluster(Tiles(points_at, numbers, exact=device.type != "cpu"), m, neighbors, include_self, ordered)
        first_point = numbers[:, :1]
        first_cluster = torch.arange(cluster, cluster + pools * m, m, device=device)[:, None]
        parts.append((found.centers + first_point, found.order + first_point, found.labels + first_cluster))
        point += pools * n
        cluster += pools * m
    return Peaks(*(torch.cat([part.flatten() for part in column]) for column in zip(*parts, strict=True)))


def _runs(sizes: Sequence[int], centers: Sequence[int], dim: int) -> Iterator[tuple[int, int, int]]:
    """(points of a pool, centres, pools) of adjacent pools of equal shape, as many as are processed at a time."""
    for (n, m), group in groupby(zip(sizes, centers, strict=True)):
        left = len(list(group))
        at_once = max(1, min(_RUN_ELEMENTS // (n * dim), KEPT_ELEMENTS // (n * n)))
        # A multiple of the number of threads, so that no thread waits for another.
        at_once -= at_once % torch.get_num_threads() if at_once > torch.get_num_threads() else 0
        while left:
            yield n, m, min(left, at_once)
            left -= min(left, at_once)


def _cluster(tiles: Tiles, centers: int, neighbors: int, include_self: bool, ordered: bool) -> Peaks:
    """Clusters of B pools; numbers count from 0 in each pool."""
    skipped = 0 if include_self else 1
    nearest = (min(neighbors + skipped, tiles.n), skipped)
    spread = _spread(tiles, *nearest)
    error = tiles.error[:, None]
    least, most = _separation(tiles, spread, error)
    lower, upper = log_score(least - error, spread + error), log_score(most + error, spread - error)
    order = ((lower + upper) / 2).sort(dim=-1, descending=True, stable=True).indices[:, :centers]
    if not tiles.exact:
        known = Estimate(spread, most, lower, upper)
        order = settle_order(
            tiles,
            order,
            known,
            nearest,
            ordered,
            lambda item: _cluster(tiles.exactly(item), centers, neighbors, include_self, True).order[0],
        )
    chosen = order.sort(dim=-1).values
    labels, runner_up = _nearest_centers(tiles, chosen)
    if not tiles.exact:
        labels = settle_labels(tiles, chosen, labels, runner_up <= 2 * error)
    labels.scatter_(1, chosen, torch.arange(centers, device=chosen.device).expand_as(chosen))
    return Peaks(chosen, order if ordered else chosen, labels)


def _nearest_centers(tiles: Tiles, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest of the centres ``chosen (B, m)`` to each point, and how much farther the next is, both ``(B, n)``."""
    labels = chosen.new_zeros(len(chosen), tiles.n)
    least = tiles.norms.new_full((*labels.shape, 2), torch.inf)
    for block in tiles.blocks:
        best, two = labels[:, slice(*block)], least[:, slice(*block)]
        for first in range(0, chosen.shape[1], _CENTERS):
            distances = tiles.between(block, chosen[:, first : first + _CENTERS])
            nearest = distances.min(dim=-1)
            best.copy_(torch.where(nearest.values < two[..., 0], nearest.indices + first, best))
            also = distances.topk(min(2, distances.shape[-1]), dim=-1, largest=False).values
            two.copy_(torch.cat([two, also], dim=-1).topk(2, dim=-1, largest=False, sorted=True).values)
    return labels, least[..., 1] - least[..., 0]


def _spread(tiles: Tiles, nearest: int, skipped: int) -> Tensor:
    """-log rho ``(B, n)``."""
    closest: dict[Block, Tensor] = {}
    for rows, columns, tile in tiles:
        for block, part in ((rows, tile),) if rows == columns else ((rows, tile), (columns, tile.mT)):
            known = part if block not in closest else torch.cat([closest[block], part], dim=-1)
            closest[block] = known.topk(min(nearest, known.shape[-1]), dim=-1, largest=False, sorted=True).values
    return mean_of_sorted(torch.cat([closest[block] for block in tiles.blocks], dim=1), skipped)


def _separation(tiles: Tiles, spread: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
    """delta^2 ``(B, n)``: the least distance to a point that may be denser, and to one that certainly is.

    The densest point has no denser one. By definition it gets the largest distance of its pool and comes first in the
    order; infinity has the same effect.
    """
    possible, certain = torch.full_like(spread, torch.inf), torch.full_like(spread, torch.inf)
    margin = 2 * error[..., None]
    for rows, columns, tile in tiles:
        own, other = spread[:, slice(*rows), None], spread[:, None, slice(*columns)]
        gap = own - other
        if tiles.exact:
            _lower(certain, rows, tile, _denser(gap, rows, columns), dim=2)
            if rows != columns:
                _lower(certain, columns, tile, ~_denser(gap, rows, columns), dim=1)
            continue
        if rows == columns:
            gap.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
        _lower(possible, rows, tile, gap >= -margin, dim=2)
        _lower(certain, rows, tile, gap > margin, dim=2)
        if rows != columns:
            _lower(possible, columns, tile, gap <= margin, dim=1)
            _lower(certain, columns, tile, gap < -margin, dim=1)
    return (certain if tiles.exact else torch.minimum(possible, certain)), certain


def _denser(gap: Tensor, rows: Block, columns: Block) -> Tensor:
    """Whether the column's point is denser than the row's; the lower index wins a tie."""
    row = torch.arange(*rows, device=gap.device)[:, None]
    column = torch.arange(*columns, device=gap.device)
    return (gap > 0) | ((gap == 0) & (column < row))


def _lower(least: Tensor, block: Block, tile: Tensor, mask: Tensor, dim: int) -> None:
    """Lower the values of a block to the minimum of the tile where the mask is set."""
    part = least[:, slice(*block)]
    part.copy_(torch.minimum(part, torch.where(mask, tile, torch.inf).amin(dim=dim)))
