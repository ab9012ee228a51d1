"""Means of bags of tokens, read once and never gathered."""

import torch
from torch import Tensor
from torch.nn import functional

_HELD_ELEMENTS = 1 << 22  # 16-bit tokens held in float32 at a time, 16 MiB


def offsets_torch(values: Tensor, index: Tensor, centers: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """See `tangovlm.kernels.blend.cluster_offsets`."""
    wide = torch.float64 if values.dtype == torch.float64 else torch.float32
    own = values[index[centers]].to(wide)
    order = labels.sort(stable=True).indices
    ends = torch.searchsorted(labels[order], torch.arange(len(centers), device=labels.device), right=True)
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    members = (ends - starts)[:, None].to(wide)
    means = _bag_sums(values, index[order], starts, wide) / members
    offsets = means - own
    # A sum of n equal values is off by up to n half units in the last place: what is within that is no difference.
    noise = own.abs() * (members * torch.finfo(wide).eps)
    # Adding -0.0 changes nothing, not even the sign of a zero.
    return own, offsets.masked_fill_(offsets.abs() <= noise, -0.0), members


def _bag_sums(values: Tensor, index: Tensor, starts: Tensor, wide: torch.dtype) -> Tensor:
    """``(C, D)`` sums of the rows ``index`` of each bag."""
    if values.dtype == wide:
        return functional.embedding_bag(index, values, starts, mode="sum")
    # Sums in 16 bits would be rounded to 16 bits: a few bags at a time are held in float32.
    bounds = [*starts.tolist(), len(index)]
    sums, first = [], 0
    while first < len(starts):
        last = first + 1
        while last < len(starts) and (bounds[last + 1] - bounds[first]) * values.shape[1] <= _HELD_ELEMENTS:
            last += 1
        held = values[index[bounds[first] : bounds[last]]].to(wide)
        place = torch.arange(len(held), device=held.device)
        sums.append(functional.embedding_bag(place, held, starts[first:last] - bounds[first], mode="sum"))
        first = last
    return torch.cat(sums)
