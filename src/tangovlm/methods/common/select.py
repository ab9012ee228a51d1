"""Choosing tokens: the most salient, the most diverse, density peaks, and greedily the farthest."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...kernels.dpc_knn import Peaks, dpc_knn, dpc_knn_ragged
from .similarity import compute_dtype


def top_salient(saliency: Tensor, keep: int) -> Tensor:
    """Indices ``(B, keep)`` of the highest of ``saliency (B, n)``, in descending order; the lowest of equals first."""
    return saliency.sort(dim=-1, descending=True, stable=True).indices[:, :keep]


def select_diverse(
    points: Callable[[Tensor], Tensor],
    shortlist: Tensor,
    sizes: Sequence[int],
    keep: Sequence[int],
    neighbors: int,
) -> Tensor:
    """Choose diverse tokens of the salient ones of each row (Tango paper, arXiv 2604.09547, section STS).

    The candidates of a row are clustered into as many groups as it keeps by DPC-KNN, and the most salient token of
    each group is chosen.

    Parameters
    ----------
    points: gives ``(k, D)``, where distances are taken, of tokens ``(k,)``.
    shortlist: ``(M,)`` int64, the candidates of all rows, row after row, by descending saliency.
    sizes, keep: candidates of each row, and how many of them are chosen.

    Returns the chosen ones, ``(sum of keep,)`` int64, row after row in no particular order.
    """
    device = shortlist.device
    labels = dpc_knn_ragged(lambda numbers: points(shortlist[numbers]), sizes, keep, neighbors, device=device).labels
    # The shortlist descends, so the first member of a cluster is its most salient one.
    place = torch.arange(len(labels), device=device)
    first = torch.full((sum(keep),), len(labels), device=device).scatter_reduce_(0, labels, place, "amin")
    return shortlist[first]


def density_peaks(values: Tensor, centers: int, neighbors: int) -> Peaks:
    """Cluster each batch of ``values (B, n, D)``, any floating type, around ``centers`` density peaks, 1 to n.

    Distances are Euclidean in float32 (float64 for float64) and divided by sqrt(D). ``neighbors`` counts the point
    itself; see `dpc_knn` for the rest.
    """
    points = values.to(compute_dtype(values.dtype)) / math.sqrt(values.shape[-1])
    return dpc_knn(points, centers, neighbors, include_self=True)


def capped_neighbors(neighbors: int, centers: int) -> int:
    """At most as many neighbours as there are centres, as HoliTom and FlashVID have it.

    With a single centre that would leave each point its own only neighbour and all densities equal (in the releases
    the choice is random then), so all neighbours count there.
    """
    return min(neighbors, centers) if centers > 1 else neighbors


_TILE_ELEMENTS = 1 << 24


def max_min(unit: Tensor, keep: int, *, weights: Tensor | None = None, repeat: bool = False) -> Tensor:
    """Choose tokens one by one, each time the one whose nearest chosen token is farthest.

    The distance of candidate j from token i is ``weights_j * (1 - cos_ij)``. The first token is the one with the
    largest second smallest distance from all tokens, itself among them: its nearest neighbour is farthest. A running
    minimum is kept, so that a step costs one product with the token chosen last; memory is O(B n).

    Parameters
    ----------
    unit: ``(B, n, D)`` float32 or float64 unit vectors, as `normalize` gives; a zero vector has distance 1 from all.
    keep: tokens to choose, 1 to n.
    weights: ``(B, n)`` factor of each candidate, of any sign; None means 1.
    repeat: let a chosen token compete again, as some releases do; it then may be chosen twice where no other is
        farther from the chosen ones than it is from itself.

    Returns ``(B, keep)`` int64, in the order of choice: the first k are what ``keep=k`` gives. The lowest of equals
    comes first.
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
    """``(B, n)``: the second smallest weighted distance of each candidate from all tokens, in tiles of candidates."""
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
