"""Merging tokens over time into trees: each token into the most similar one of the previous frame (FlashVID)."""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from .merge import sum_by_label
from .similarity import compute_dtype

_NO_PARENT = -1.0  # the similarity of a token that cannot merge


class Trees(NamedTuple):
    """The trees that the tokens of T frames of L form."""

    roots: Tensor  # (T, L) int64, grid index of the root of each token's tree, its own if it did not merge
    merged: Tensor  # (T, L) bool, whether a token was merged into another
    values: Tensor  # (T, L, D) float32 (float64 for float64), at each root the value of its tree


def grow_trees(
    features: Tensor,
    unit: Tensor,
    free: Tensor,
    segments: Sequence[int],
    least: Sequence[int],
    threshold: float,
    *,
    subtree_counts: bool,
) -> Trees:
    """Merge tokens into their parents in the previous frame of the segment (FlashVID, arXiv 2602.08024).

    The parent of a free token is the most similar free token of the previous frame, at any position; the token merges
    if their cosine is above ``threshold``. If that leaves a segment fewer tokens than it must keep, its threshold is
    raised until enough are left.

    Parameters
    ----------
    features: ``(T, L, D)``; unit: the same as unit vectors.
    free: ``(T, L)`` bool, the tokens that may merge or be merged into.
    segments: frames of each segment.
    least: tokens that each segment must keep, free or not.
    threshold: in [-1, 1].
    subtree_counts: True makes a tree the mean of its tokens; False their sum divided by 1 + the children of the root,
        as in the authors' code.
    """
    similarity, parents = _parents(unit, free, segments)
    parts = zip(torch.split(similarity, list(segments)), least, strict=True)
    merged = torch.cat([_above(part, number, threshold) for part, number in parts])
    roots = torch.arange(free.numel(), device=free.device).view(free.shape)
    sums = features.to(compute_dtype(features.dtype), copy=True)
    children = torch.zeros_like(roots)
    labels = torch.where(merged, parents, -1)
    for frame in _with_parents(segments):
        above = roots[frame - 1].gather(0, parents[frame])
        roots[frame] = torch.where(merged[frame], above, roots[frame])
    for frame in reversed(_with_parents(segments)):
        sent, members = sum_by_label(sums[frame : frame + 1], labels[frame : frame + 1], labels.shape[1])
        sums[frame - 1] += sent[0]
        children[frame - 1] = members[0, :, 0].long()
    sizes = torch.zeros_like(roots.flatten()).scatter_add_(0, roots.flatten(), torch.ones_like(roots.flatten()))
    divisor = sizes.view_as(roots) if subtree_counts else children + 1
    values = torch.where(children[..., None] > 0, sums / divisor[..., None].clamp_min(1), features.to(sums.dtype))
    return Trees(roots, merged, values)


def _with_parents(segments: Sequence[int]) -> list[int]:
    """The frames that are not the first of their segment."""
    ends = accumulate(segments)
    return [frame for end, size in zip(ends, segments, strict=True) for frame in range(end - size + 1, end)]


def _parents(unit: Tensor, free: Tensor, segments: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Cosine to the most similar free token of the previous frame, and its position; the lowest wins a tie."""
    similarity = unit.new_full(free.shape, _NO_PARENT)
    parents = torch.zeros(free.shape, dtype=torch.int64, device=free.device)
    for frame in _with_parents(segments):
        cosines = (unit[frame] @ unit[frame - 1].mT).masked_fill(~free[frame - 1], _NO_PARENT)
        parents[frame] = cosines.argmax(dim=1)
        best = cosines.gather(1, parents[frame][:, None])[:, 0]
        similarity[frame] = torch.where(free[frame], best, _NO_PARENT)
    return similarity, parents


def _above(similarity: Tensor, least: int, threshold: float) -> Tensor:
    """Which tokens ``(n, L)`` of a segment merge, such that at least ``least`` are left."""
    surplus = similarity.numel() - least
    if surplus < 1:
        return torch.zeros_like(similarity, dtype=torch.bool)
    last = similarity.flatten().sort(descending=True).values[surplus - 1].clamp_min(_NO_PARENT + 1e-6)
    too_many = (similarity > threshold).sum() > surplus
    return similarity > torch.where(too_many, last, threshold)
