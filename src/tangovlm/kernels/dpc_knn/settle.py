"""What rounding left open is decided by exact distances, so that the result is as if all distances were exact.

A score or a label is open if the bounds on it overlap those of another that it competes with. Few are, unless points
are equal or placed regularly.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .exact import exact_squared
from .tiles import Tiles

# Distances held at a time, 16 MiB in float32; in large pools those of some points at least.
_HELD_ELEMENTS, _HELD_POINTS = 1 << 22, 128


class Estimate(NamedTuple):
    """What is known of the n points of B pools, each ``(B, n)``; squared distances are off by at most an error.

    Parameters
    ----------
    spread: -log rho, off by at most that error too.
    farthest: the largest squared distance of each point.
    nearest_denser: the least squared distance to a point that is certainly denser.
    lower, upper: bounds of log(rho * delta), float64.
    """

    spread: Tensor
    farthest: Tensor
    nearest_denser: Tensor
    lower: Tensor
    upper: Tensor


def settle_order(
    tiles: Tiles,
    order: Tensor,
    known: Estimate,
    neighbors: tuple[int, int],
    ordered: bool,
    from_scratch: Callable[[int], Tensor],
) -> Tensor:
    """The centres ``(B, m)``, by descending score if ``ordered``.

    Parameters
    ----------
    order: ``(B, m)``, the same by scores that may be off.
    neighbors: how many of the nearest points count, and how many of them are skipped.
    from_scratch: the order ``(m,)`` of one pool, all of it computed exactly; for a pool where too much is open.
    """
    centers = order.shape[1]
    in_sight = known.upper >= known.lower.topk(centers, dim=-1).values[:, -1:]
    if ordered:
        lower, upper = (bound.where(in_sight, -torch.inf) for bound in (known.lower, known.upper))
        open_ = _overlapping(lower, upper) & in_sight
    elif centers == tiles.n:
        return order
    else:
        # Above the bounds of all but as many as there are centres, a point is one of them.
        open_ = (known.lower <= known.upper.topk(centers + 1, dim=-1).values[:, -1:]) & in_sight
        open_ &= in_sight.sum(dim=-1, keepdim=True) > centers
    for item in open_.any(dim=1).nonzero().flatten().tolist():
        pool = Estimate(*(part[item] for part in known))
        some = open_[item].nonzero().flatten()
        scores = _exact_scores(tiles, item, some, pool, neighbors)
        if scores is None:
            order[item] = from_scratch(item)
            continue
        score = ((pool.lower + pool.upper) / 2).index_copy(0, some, scores)
        sighted = in_sight[item].nonzero().flatten()
        order[item] = sighted[score[sighted].sort(descending=True, stable=True).indices[:centers]]
    return order


def settle_labels(tiles: Tiles, chosen: Tensor, columns: Tensor, labels: Tensor) -> Tensor:
    """The nearest centre ``(B, n)`` of each point, given the distances ``columns (B, n, m)`` to centres ``chosen``."""
    if columns.shape[2] == 1:
        return labels
    least = columns.topk(2, dim=-1, largest=False).values
    open_ = least[..., 1] - least[..., 0] <= 2 * tiles.error[:, None]
    for item in open_.any(dim=1).nonzero().flatten().tolist():
        centers = tiles.of_pool(item, chosen[item])
        for some in torch.split(open_[item].nonzero().flatten(), max(1, _HELD_ELEMENTS // len(centers))):
            exact = exact_squared(tiles.of_pool(item, some), centers, tiles.scale[item])
            labels[item, some] = exact.argmin(dim=-1)
    return labels


def _overlapping(lower: Tensor, upper: Tensor) -> Tensor:
    """Which of the intervals ``(B, n)`` of a row overlap another one."""
    upper, place = upper.sort(dim=-1, descending=True)
    lower = lower.gather(1, place)
    overlaps = torch.zeros_like(lower, dtype=torch.bool)
    overlaps[:, 1:] = upper[:, 1:] >= lower.cummin(dim=1).values[:, :-1]
    overlaps[:, :-1] |= upper[:, 1:] >= lower[:, :-1]
    return torch.empty_like(overlaps).scatter_(1, place, overlaps)


def _exact_scores(tiles: Tiles, item: int, points: Tensor, pool: Estimate, neighbors: tuple[int, int]) -> Tensor | None:
    """log(rho * delta) of ``points (k,)`` of one pool, float64; None if that takes more distances than are held.

    Exact are only the distances that may count: to the nearest points, and to the nearest that may be denser. Of these
    the ones whose density is not certainly above or below need an exact density too.
    """
    most = max(_HELD_ELEMENTS // tiles.n, _HELD_POINTS)
    if len(points) > most:
        return None
    error = tiles.error[item]
    rows = tiles.rows(item, points)
    gap = pool.spread[points, None] - pool.spread
    # One error each of two spreads, and one to spare for rounding in what follows.
    may_count = (gap >= -3 * error) & (rows <= pool.nearest_denser[points, None] + 2 * error)
    unsure = (may_count & (gap <= 3 * error)).any(dim=0).index_fill(0, points, False).nonzero().flatten()
    both = torch.cat([points, unsure])
    if len(both) > most:
        return None
    rows = torch.cat([rows, tiles.rows(item, unsure)])
    near = rows <= rows.kthvalue(neighbors[0], dim=1, keepdim=True).values + 2 * error
    columns = (near.any(dim=0) | may_count.any(dim=0)).nonzero().flatten()
    exact = exact_squared(tiles.of_pool(item, both), tiles.of_pool(item, columns), tiles.scale[item])
    spread = pool.spread.index_copy(0, both, mean_of_nearest(exact, *neighbors))
    gap = spread[points, None] - spread[columns]
    denser = (gap > 0) | ((gap == 0) & (columns < points[:, None]))
    least = torch.where(denser, exact[: len(points)], torch.inf).amin(dim=1)
    if bool(least.isinf().any()):
        far = (pool.farthest >= pool.farthest.max() - 2 * error).nonzero().flatten()
        if len(far) > most:
            return None
        columns = (tiles.rows(item, far) >= pool.farthest.max() - 2 * error).any(dim=0).nonzero().flatten()
        largest = exact_squared(tiles.of_pool(item, far), tiles.of_pool(item, columns), tiles.scale[item]).max()
        least = torch.where(least.isinf(), largest, least)
    return log_score(least, spread[points])


def mean_of_nearest(squared: Tensor, number: int, skipped: int) -> Tensor:
    """-log rho: the mean over the ``number`` least of ``squared (..., n)``, the first ``skipped`` of them left out."""
    return mean_of_sorted(squared.topk(number, dim=-1, largest=False, sorted=True).values, skipped)


def mean_of_sorted(squared: Tensor, skipped: int) -> Tensor:
    """Mean of ``squared (..., k)``, ascending, without the first ``skipped``; 0 where none are left."""
    counted = squared[..., skipped:]
    return counted.sum(-1) / max(counted.shape[-1], 1)


def log_score(separation: Tensor, spread: Tensor) -> Tensor:
    """log(rho * delta) in float64 from delta^2 and -log rho."""
    return 0.5 * separation.double().clamp_min_(0).log() - spread
