"""Merging tokens into anchors."""

import torch
from torch import Tensor

from ...kernels.blend import cluster_offsets

_TILE_ELEMENTS = 1 << 24


def blend(
    values: Tensor, anchors: Tensor, labels: Tensor, anchor_weight: float | Tensor, *, include_anchor: bool = True
) -> Tensor:
    """Merge each cluster into its anchor: ``w * anchor + (1 - w) * mean of the members``.

    Parameters
    ----------
    values: ``(B, n, D)``, any floating type.
    anchors: ``(B, m)`` int64, distinct indices of the anchors.
    labels: ``(B, n)`` int64, the cluster of each token; every anchor is in its own cluster.
    anchor_weight: w in [0, 1]; a number, or ``(B, m, 1)`` in the dtype of the result.
    include_anchor: whether the mean includes the anchor.

    Returns ``(B, m, D)`` in float32 (float64 for float64). A cluster of one is an exact copy of its anchor, and so is
    a cluster of equal tokens.
    """
    (batch, n, _), m = values.shape, anchors.shape[1]
    item = torch.arange(batch, device=values.device)[:, None]
    every = torch.arange(batch * n, device=values.device)
    parts = cluster_offsets(values.flatten(0, 1), every, (anchors + item * n).flatten(), (labels + item * m).flatten())
    own, offsets, members = (part.view(batch, m, -1) for part in parts)
    averaged = members if include_anchor else (members - 1).clamp_min(1)
    return own + offsets * ((1 - anchor_weight) * members / averaged)


def sum_by_label(values: Tensor, labels: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """Sums ``(B, m, D)`` of ``values (B, n, D)`` by label, and counts ``(B, m, 1)``; memory bounded by tiles of m."""
    at_once = max(1, _TILE_ELEMENTS // labels.numel())
    sums, counts = [], []
    for start in range(0, clusters, at_once):
        ids = torch.arange(start, min(start + at_once, clusters), device=labels.device)
        member = (labels[:, None, :] == ids[:, None]).to(values.dtype)
        sums.append(member @ values)
        counts.append(member.sum(-1, keepdim=True))
    return torch.cat(sums, dim=1), torch.cat(counts, dim=1)
