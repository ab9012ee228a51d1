"""Choosing representative tokens: density peaks, and greedy max-min diversity."""

import math

import torch
from torch import Tensor

from ...kernels.dpc_knn import Peaks, dpc_knn
from .similarity import compute_dtype


def density_peaks(values: Tensor, centers: int, neighbors: int) -> Peaks:
    """Cluster each batch of ``values (B, n, D)``, of any floating type, around ``centers`` density peaks, 1 to n.

    Distances are Euclidean, in float32 (float64 for float64), divided by sqrt(D). ``neighbors`` includes the point
    itself. See `dpc_knn` for everything else.
    """
    points = values.to(compute_dtype(values.dtype)) / math.sqrt(values.shape[-1])
    return dpc_knn(points, centers, neighbors, include_self=True)


def capped_neighbors(neighbors: int, centers: int) -> int:
    """At most as many neighbours as there are centres, as in HoliTom and FlashVID.

    With a single centre, each point would be its only neighbour and all densities would be equal (the releases then
    choose at random), so the number of neighbours is not capped there.
    """
    return min(neighbors, centers) if centers > 1 else neighbors


_TILE_ELEMENTS = 1 << 24


def max_min(unit: Tensor, keep: int, *, weights: Tensor | None = None, repeat: bool = False) -> Tensor:
    """Choose tokens one by one, each time the one whose nearest chosen token is farthest.

    The distance of candidate j from token i is ``weights_j * (1 - cos_ij)``. The first token is the one whose nearest
    neighbour is farthest: its second smallest distance from all tokens, itself included, is the largest. A running
    minimum is stored, so that a step costs one product with the token chosen last; memory is O(B n).

    Parameters
    ----------
    unit: ``(B, n, D)`` float32 or float64 unit vectors, see `normalize`; a zero vector has distance 1 from all others.
    keep: tokens to choose, 1 to n.
    weights: ``(B, n)`` factor of each candidate, of any sign; None means 1.
    repeat: let a chosen token compete again, as some releases do; it may then be chosen twice if no other token is
        farther from the chosen ones than it is from itself.

    Returns ``(B, keep)`` int64, in the order of choice: the first k equal the result for ``keep=k``. The lowest index
    wins a tie.
    """
    batch = torch.arange(unit.shape[0], device=unit.device)
    factor = unit.new_ones(()) if weights is None else weights.to(unit.dtype)
    newest = _isolation(unit, factor).argmax(dim=-1)
    nearest = unit.new_full(unit.shape[:2], torch.inf)
    chosen = [newest]
    for _ in range(keep - 1):
        distance = 1 - (unit @ unit[batch, newest][:, :, None])[..., 0]
        nearest = torch.minimum(nearest, distance.clamp_min_(0) * factor)
        if not repeat:
            nearest[batch, newest] = -torch.inf
        newest = nearest.argmax(dim=-1)
        chosen.append(newest)
    return torch.stack(chosen, dim=1)


def _isolation(unit: Tensor, factor: Tensor) -> Tensor:
    """``(B, n)``: the second smallest weighted distance of each candidate from all tokens, computed in tiles."""
    batch, n, _ = unit.shape
    if n == 1:
        return unit.new_zeros(batch, n)
    factor = factor.expand(batch, n)
    at_once = max(1, _TILE_ELEMENTS // (batch * n))
    parts = []
    for start in range(0, n, at_once):
        some = slice(start, start + at_once)
        distance = (1 - unit[:, some] @ unit.mT).clamp_min_(0) * factor[:, some, None]
        parts.append(distance.topk(2, dim=-1, largest=False).values[..., 1])
    return torch.cat(parts, dim=1)
