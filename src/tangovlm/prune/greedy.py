"""Greedy max-min choice: tokens that are far from each other (DivPrune, arXiv 2503.02175; FlashVID's selection)."""

import torch
from torch import Tensor

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
