"""Means of clusters of tokens, as sums of bags of tokens (`embedding_bag`) without gathering them first.

A running sum of equal values accumulates an error of up to half a unit in the last place per value, so that a bag has a
limited number of members, and a large cluster several bags.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

_HELD_ELEMENTS = 1 << 22  # values processed at a time, 16 MiB in float32
_MEMBERS = 256  # of a bag

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
    """Yield the results of `tangovlm.kernels.blend.cluster_offsets`, some clusters at a time."""
    device = labels.device
    order = labels.sort(stable=True).indices
    anchors, members = index[centers], index[order]
    ends = torch.searchsorted(labels[order], torch.arange(len(centers), device=device), right=True)
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    bags = (ends - starts + _MEMBERS - 1) // _MEMBERS
    cluster = torch.repeat_interleave(torch.arange(len(centers), device=device), bags)
    first_bag = bags.cumsum(0) - bags
    begin = starts[cluster] + _MEMBERS * (torch.arange(len(cluster), device=device) - first_bag[cluster])
    size = torch.minimum(begin + _MEMBERS, ends[cluster]) - begin
    bounds = [0, *bags.cumsum(0).tolist()]
    for first, last in _runs(bounds, _HELD_ELEMENTS // values.shape[1]):
        some = slice(bounds[first], bounds[last])
        share = size[some] / (ends - starts)[cluster[some]]
        own = values[anchors[first:last]].to(_wide(values))
        of_bag = own[cluster[some] - first]
        offsets = _bag_means(values, members, begin[some], size[some]).sub_(of_bag)
        noise = of_bag.abs_().mul_(size[some, None] * torch.finfo(own.dtype).eps)
        offsets.masked_fill_(offsets.abs() <= noise, 0)
        if len(offsets) > len(own):
            each = torch.arange(len(offsets), device=device)
            parts = first_bag[first:last] - bounds[first]
            weights = share.to(own.dtype)
            offsets = functional.embedding_bag(each, offsets, parts, mode="sum", per_sample_weights=weights)
        # Adding -0.0 changes nothing, not even the sign of a zero.
        yield own, offsets.masked_fill_(offsets == 0, -0.0), (ends - starts)[first:last, None].to(own.dtype)


def _runs(bounds: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """(first, one past the last) of adjacent groups with at most ``most`` members in total, or of one larger group.

    Parameters
    ----------
    bounds: the first member of each group, and one past the last of all.
    """
    first = 0
    for group, (_, stop) in enumerate(pairwise(bounds)):
        if group > first and stop - bounds[first] > most:
            yield first, group
            first = group
    if first < len(bounds) - 1:
        yield first, len(bounds) - 1


def _bag_means(values: Tensor, members: Tensor, begin: Tensor, size: Tensor) -> Tensor:
    """``(bags, D)``: means of adjacent bags of ``members``, which start at ``begin``."""
    wide = _wide(values)
    if values.dtype == wide:
        some = members[begin[0] : begin[-1] + size[-1]]
        sums = functional.embedding_bag(some, values, begin - begin[0], mode="sum")
        return sums.div_(size[:, None])
    # A sum of 16-bit values would be rounded to 16 bits: some members at a time are converted to float32.
    means = torch.empty(len(begin), values.shape[1], dtype=wide, device=values.device)
    bounds = [*begin.tolist(), int(begin[-1] + size[-1])]
    for first, last in _runs(bounds, _HELD_ELEMENTS // values.shape[1]):
        held = values[members[bounds[first] : bounds[last]]].to(wide)
        place = torch.arange(len(held), device=held.device)
        means[first:last] = functional.embedding_bag(place, held, begin[first:last] - bounds[first], mode="sum")
    return means.div_(size[:, None])


def _wide(values: Tensor) -> torch.dtype:
    return torch.float64 if values.dtype == torch.float64 else torch.float32
