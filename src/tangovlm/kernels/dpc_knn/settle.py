"""Deciding by exact distances where rounding matters, so that the result is as if all distances were exact.

A score or a label is undecided if its error bounds overlap those of a competing one. Few are, unless points are equal
or regularly spaced.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .tiles import Tiles, exact_squared

# Distances in memory at a time, 16 MiB in float32; in large pools those of this many points.
_HELD_ELEMENTS, _HELD_POINTS = 1 << 22, 128


class Estimate(NamedTuple):
    """Approximate values of the n points of B pools, each ``(B, n)``; squared distances have a bounded error.

    Parameters
    ----------
    spread: -log rho, with the same bound on its error.
    nearest_denser: the least squared distance to a point that is certainly denser.
    lower, upper: bounds of log(rho * delta), float64.
    """

    spread: Tensor
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
    order: ``(B, m)``, the same by approximate scores.
    neighbors: how many of the nearest points count, and how many of them are skipped.
    from_scratch: returns the exact order ``(m,)`` of one pool; used if too much of it is undecided.
    """
    centers = order.shape[1]
    in_sight = known.upper >= known.lower.topk(centers, dim=-1).values[:, -1:]
    if ordered:
        lower, upper = (bound.where(in_sight, -torch.inf) for bound in (known.lower, known.upper))
        undecided = _overlapping(lower, upper) & in_sight
    elif centers == tiles.n:
        return order
    else:
        # A point above the bounds of all but the centres is one of them.
        undecided = (known.lower <= known.upper.topk(centers + 1, dim=-1).values[:, -1:]) & in_sight
        undecided &= in_sight.sum(dim=-1, keepdim=True) > centers
    for item in undecided.any(dim=1).nonzero().flatten().tolist():
        pool = Estimate(*(part[item] for part in known))
        some = undecided[item].nonzero().flatten()
        scores = _exact_scores(tiles, item, some, pool, neighbors)
        if scores is None:
            order[item] = from_scratch(item)
            continue
        score = ((pool.lower + pool.upper) / 2).index_copy(0, some, scores)
        sighted = in_sight[item].nonzero().flatten()
        order[item] = sighted[score[sighted].sort(descending=True, stable=True).indices[:centers]]
    return order


def settle_labels(tiles: Tiles, chosen: Tensor, labels: Tensor, undecided: Tensor) -> Tensor:
    """The nearest of the centres ``chosen (B, m)`` to each point, ``(B, n)``; recomputed where undecided."""
    for item in undecided.any(dim=1).nonzero().flatten().tolist() if chosen.shape[1] > 1 else ():
        points = undecided[item].nonzero().flatten()
        for some in torch.split(points, max(1, _HELD_ELEMENTS // chosen.shape[1])):
            labels[item, some] = _exact_to(tiles, item, some, chosen[item]).argmin(dim=-1)
    return labels


def _exact_to(tiles: Tiles, item: int, points: Tensor, others: Tensor) -> Tensor:
    """Exact distances ``(k, m)`` of points of one pool to others of it."""
    own = tiles.of_pool(item, points)
    parts = torch.split(others, max(1, _HELD_ELEMENTS // tiles.dim))
    return torch.cat([exact_squared(own, tiles.of_pool(item, part), tiles.scale[item]) for part in parts], dim=1)


def _overlapping(lower: Tensor, upper: Tensor) -> Tensor:
    """Which of the intervals ``(B, n)`` of a row overlap another one."""
    upper, place = upper.sort(dim=-1, descending=True)
    lower = lower.gather(1, place)
    overlaps = torch.zeros_like(lower, dtype=torch.bool)
    overlaps[:, 1:] = upper[:, 1:] >= lower.cummin(dim=1).values[:, :-1]
    overlaps[:, :-1] |= upper[:, 1:] >= lower[:, :-1]
    return torch.empty_like(overlaps).scatter_(1, place, overlaps)


def _exact_scores(tiles: Tiles, item: int, points: Tensor, pool: Estimate, neighbors: tuple[int, int]) -> Tensor | None:
    """log(rho * delta) of ``points (k,)`` of one pool, float64; None if that takes more distances than fit.

    Only relevant distances are computed exactly: those to the nearest points, and to the nearest points that may be
    denser. Of the latter, those whose density is not certainly higher or lower need an exact density as well.
    """
    most = max(_HELD_ELEMENTS // tiles.n, _HELD_POINTS)
    if len(points) > most:
        return None
    error = tiles.error[item]
    rows = tiles.rows(item, points)
    gap = pool.spread[points, None] - pool.spread
    # One error for each of two spreads, and one as a margin for later rounding.
    may_count = (gap >= -3 * error) & (rows <= pool.nearest_denser[points, None] + 2 * error)
    unsure = (may_count & (gap <= 3 * error)).any(dim=0).index_fill(0, points, False).nonzero().flatten()
    both = torch.cat([points, unsure])
    if len(both) > most:
        return None
    rows = torch.cat([rows, tiles.rows(item, unsure)])
    near = rows <= rows.kthvalue(neighbors[0], dim=1, keepdim=True).values + 2 * error
    columns = (near.any(dim=0) | may_count.any(dim=0)).nonzero().flatten()
    exact = _exact_to(tiles, item, both, columns)
    spread = pool.spread.index_copy(0, both, mean_of_nearest(exact, *neighbors))
    gap = spread[points, None] - spread[columns]
    denser = (gap > 0) | ((gap == 0) & (columns < points[:, None]))
    least = torch.where(denser, exact[: len(points)], torch.inf).amin(dim=1)
    return log_score(least, spread[points])


def mean_of_nearest(squared: Tensor, number: int, skipped: int) -> Tensor:
    """-log rho: the mean over the ``number`` least of ``squared (..., n)``, without the first ``skipped`` of them."""
    return mean_of_sorted(squared.topk(number, dim=-1, largest=False, sorted=True).values, skipped)


def mean_of_sorted(squared: Tensor, skipped: int) -> Tensor:
    """Mean of ``squared (..., k)``, ascending, without the first ``skipped``; 0 where none are left."""
    counted = squared[..., skipped:]
    return counted.sum(-1) / max(counted.shape[-1], 1)


def log_score(separation: Tensor, spread: Tensor) -> Tensor:
    """log(rho * delta) in float64 from delta^2 and -log rho."""
    return 0.5 * separation.double().clamp_min_(0).log() - spread
