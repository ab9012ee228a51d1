"""Means of bags of tokens, read once and never gathered, a few clusters at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

_HELD_ELEMENTS = 1 << 22  # values of a type held at a time, 16 MiB in float32

Piece = tuple[Tensor, Tensor, Tensor]


def blend_torch(values: Tensor, index: Tensor, centers: Tensor, labels: Tensor, anchor_weight: float) -> Tensor:
    """See `tangovlm.kernels.blend.blend_ragged`."""
    merged = torch.empty(len(centers), values.shape[1], dtype=_wide(values), device=values.device)
    done = 0
    for own, offsets, _ in offset_pieces(values, index, centers, labels):
        merged[done : done + len(own)] = own.add_(offsets, alpha=1 - anchor_weight)
        done += len(own)
    return merged


def offset_pieces(values: Tensor, index: Tensor, centers: Tensor, labels: Tensor) -> Iterator[Piece]:
    """What `tangovlm.kernels.blend.cluster_offsets` gives, of some clusters after the other."""
    order = labels.sort(stable=True).indices
    ends = torch.searchsorted(labels[order], torch.arange(len(centers), device=labels.device), right=True)
    starts = torch.cat([ends.new_zeros(1), ends])
    anchors, members = index[centers], index[order]
    for first, last, begin, end in _runs(starts.tolist(), values):
        bags = starts[first:last] - begin
        yield _offsets(values, anchors[first:last], members[begin:end], bags, (ends[first:last] - starts[first:last]))


def _runs(bounds: list[int], values: Tensor) -> Iterator[tuple[int, int, int, int]]:
    """(first cluster, one past the last, and the same of their members) of clusters that are worked on at once.

    Parameters
    ----------
    bounds: the first member of each cluster, and one past the last member of all.
    """
    most = max(1, _HELD_ELEMENTS // values.shape[1])
    # Members in 16 bits are held in float32: a sum in 16 bits would be rounded to 16 bits.
    held = values.dtype != _wide(values)
    first = 0
    while first < len(bounds) - 1:
        last = first + 1
        while last < len(bounds) - 1 and last - first < most and (not held or bounds[last + 1] - bounds[first] <= most):
            last += 1
        yield first, last, bounds[first], bounds[last]
        first = last


def _offsets(values: Tensor, anchors: Tensor, members: Tensor, bags: Tensor, sizes: Tensor) -> Piece:
    wide = _wide(values)
    own = values[anchors].to(wide)
    if values.dtype != wide:
        values, members = values[members].to(wide), torch.arange(len(members), device=members.device)
    counts = sizes[:, None].to(wide)
    offsets = functional.embedding_bag(members, values, bags, mode="sum").div_(counts).sub_(own)
    # A sum of n equal values is off by up to n half units in the last place: what is within that is no difference.
    noise = own.abs().mul_(counts * torch.finfo(wide).eps)
    # Adding -0.0 changes nothing, not even the sign of a zero.
    return own, offsets.masked_fill_(offsets.abs() <= noise, -0.0), counts


def _wide(values: Tensor) -> torch.dtype:
    return torch.float64 if values.dtype == torch.float64 else torch.float32
