"""DPC-KNN in PyTorch, on any device, for pools of any sizes, in tiles of bounded size.

On the CPU float32 products decide what they can: they come with a bound on their error, so that what depends on
rounding is known, and only that is taken again with exact distances (`settle`). Elsewhere all distances are exact.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor

from .peaks import Peaks
from .settle import Estimate, log_score, mean_of_sorted, settle_labels, settle_order
from .tiles import KEPT_ELEMENTS, Block, Rows, Tiles

# Points of small pools that are worked on at a time, in coordinates: 16 MiB in float32, which a CPU's cache holds.
_RUN_ELEMENTS = 1 << 22
_CENTERS = 4096  # that a block of points is compared with at a time


def dpc_knn_torch(
    rows: Rows,
    sizes: Sequence[int],
    centers: Sequence[int],
    neighbors: int,
    include_self: bool,
    ordered: bool,
    device: torch.device,
) -> Peaks:
    """See `tangovlm.kernels.dpc_knn.dpc_knn_ragged`."""
    dim = rows(torch.zeros(0, dtype=torch.int64, device=device)).shape[1]
    parts, point, cluster = [], 0, 0
    for n, m, pools in _runs(sizes, centers, dim):
        numbers = torch.arange(point, point + pools * n, device=device).view(pools, n)
        found = _cluster(Tiles(rows, numbers, exact=device.type != "cpu"), m, neighbors, include_self, ordered)
        first_point = numbers[:, :1]
        first_cluster = torch.arange(cluster, cluster + pools * m, m, device=device)[:, None]
        parts.append((found.centers + first_point, found.order + first_point, found.labels + first_cluster))
        point += pools * n
        cluster += pools * m
    return Peaks(*(torch.cat([part.flatten() for part in column]) for column in zip(*parts, strict=True)))


def _runs(sizes: Sequence[int], centers: Sequence[int], dim: int) -> Iterator[tuple[int, int, int]]:
    """(points of a pool, centres, pools) of neighbouring pools of equal shape, as many as are worked on at a time."""
    for (n, m), group in groupby(zip(sizes, centers, strict=True)):
        left = len(list(group))
        at_once = max(1, min(_RUN_ELEMENTS // (n * dim), KEPT_ELEMENTS // (n * n)))
        # Each thread takes whole pools: no thread is to wait for another.
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

    The densest point has none denser. With the largest distance of its pool, which no other exceeds, it would come
    first in the order, and so it does with infinity.
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
    """Whether the column's point is denser than the row's: of equals the one of lower index is."""
    row = torch.arange(*rows, device=gap.device)[:, None]
    column = torch.arange(*columns, device=gap.device)
    return (gap > 0) | ((gap == 0) & (column < row))


def _lower(least: Tensor, block: Block, tile: Tensor, mask: Tensor, dim: int) -> None:
    """Lower the values of a block to the least of the tile's where the mask is set."""
    part = least[:, slice(*block)]
    part.copy_(torch.minimum(part, torch.where(mask, tile, torch.inf).amin(dim=dim)))
