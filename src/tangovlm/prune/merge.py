"""Merging of tokens into anchors (STM) and over time."""

import torch
from torch import Tensor

from ..signals.similarity import compute_dtype

_TILE_ELEMENTS = 1 << 24


def blend(
    values: Tensor, anchors: Tensor, labels: Tensor, anchor_weight: float | Tensor, *, include_anchor: bool = True
) -> Tensor:
    """Merge each cluster into its anchor: ``w * anchor + (1 - w) * mean of the members``.

    Parameters
    ----------
    values: ``(B, n, D)``, any floating type.
    anchors: ``(B, m)`` int64, indices of the anchors; no two are equal.
    labels: ``(B, n)`` int64, the cluster of each token; every anchor is in its own cluster.
    anchor_weight: w in [0, 1]; a number, or ``(B, m, 1)`` in the type of the result.
    include_anchor: whether the anchor is one of the members that the mean is taken over.

    Returns ``(B, m, D)`` in float32 (float64 for float64). A cluster of one is an exact copy of its anchor, and so is
    a cluster of equal tokens.
    """
    wide = values.to(compute_dtype(values.dtype))
    own = wide.gather(1, anchors[..., None].expand(-1, -1, wide.shape[2]))
    # Sums of differences to the anchor, and by matmul: equal tokens give exactly zero, and no atomics decide the order.
    offsets = wide - own.gather(1, labels[..., None].expand_as(wide))
    spread, members = sum_by_label(offsets, labels, anchors.shape[1])
    averaged = members if include_anchor else (members - 1).clamp_min(1)
    return torch.where(members > 1, own + spread * ((1 - anchor_weight) / averaged), own)


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


def mean_over_time(values: Tensor, used: Tensor) -> Tensor:
    """Mean over the frames in use, the first frame always among them.

    Parameters
    ----------
    values: ``(n, m, D)``, any floating type.
    used: ``(n, m)`` bool; ``used[0]`` is True.

    Returns ``(m, D)`` in float32 (float64 for float64); where one frame is used, an exact copy of it.
    """
    wide = values.to(compute_dtype(values.dtype))
    frames = used.sum(dim=0)[:, None]
    spread = ((wide - wide[0]) * used[..., None]).sum(dim=0)
    return torch.where(frames > 1, wide[0] + spread / frames, wide[0])
