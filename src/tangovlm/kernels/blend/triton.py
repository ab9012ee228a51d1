"""Merging ragged clusters for CUDA in Triton: reads each value once, and sums in a fixed order, without atomics."""

import torch
import triton
import triton.language as tl
from torch import Tensor

_MEMBERS = 16  # loaded at a time, to overlap memory latency
_CHANNELS = 256


def blend_ragged_triton(values: Tensor, index: Tensor, centers: Tensor, labels: Tensor, anchor_weight: float) -> Tensor:
    """Merge each cluster into its anchor; see `tangovlm.kernels.blend.blend_ragged` for the definition.

    Parameters
    ----------
    values: ``(N, D)``, any floating type.
    index: ``(M,)`` int64 indices into ``values``: the tokens to merge.
    centers: ``(C,)`` int64, the anchor of each cluster, as an index into ``index``.
    labels: ``(M,)`` int64, the cluster of each point, 0 to C - 1; every anchor is in its own cluster.
    anchor_weight: w in [0, 1].

    Returns ``(C, D)`` float32.
    """
    clusters, dim = len(centers), values.shape[1]
    merged = torch.empty(clusters, dim, dtype=torch.float32, device=values.device)
    by_cluster = labels.sort(stable=True)
    stops = torch.searchsorted(by_cluster.values, torch.arange(clusters, device=labels.device), right=True)
    if merged.numel():
        with torch.cuda.device_of(values):
            _blend[(clusters, triton.cdiv(dim, _CHANNELS))](
                values.contiguous(), index[centers], index[by_cluster.indices], stops, merged, dim, 1.0 - anchor_weight,
                MEMBERS=_MEMBERS, CHANNELS=_CHANNELS, enable_fp_fusion=False,
            )  # fmt: skip
    return merged


@triton.jit
def _blend(values, anchors, members, stops, merged, dim, rest, MEMBERS: tl.constexpr, CHANNELS: tl.constexpr):
    """One cluster, some channels: the anchor plus the mean difference to it, which is zero for equal tokens."""
    cluster = tl.program_id(0)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < dim
    start = tl.load(stops + cluster - 1, mask=cluster > 0, other=0)
    stop = tl.load(stops + cluster)
    anchor = tl.load(values + tl.load(anchors + cluster) * dim + channel, mask=inside, other=0.0).to(tl.float32)
    spread = tl.zeros((MEMBERS, CHANNELS), tl.float32)
    for first in range(start, stop, MEMBERS):
        place = first + tl.arange(0, MEMBERS)
        row = tl.load(members + place, mask=place < stop, other=0)
        mask = (place < stop)[:, None] & inside[None, :]
        value = tl.load(values + row[:, None] * dim + channel[None, :], mask=mask, other=0.0).to(tl.float32)
        spread += tl.where(mask, value - anchor[None, :], 0.0)
    value = anchor + tl.sum(spread, 0) * (rest / (stop - start).to(tl.float32))
    tl.store(merged + cluster.to(tl.int64) * dim + channel, value, mask=inside)
