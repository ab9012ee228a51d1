"""Giving dropped hidden states to kept ones."""

from typing import NamedTuple

import torch
from torch import Tensor

from ...common.similarity import normalize


class Merged(NamedTuple):
    """Dropped tokens and the kept token that each goes to.

    Parameters
    ----------
    dropped: ``(m,)`` int64, ascending.
    slots: ``(m,)`` int64, place among the kept ones of the most similar.
    """

    dropped: Tensor
    slots: Tensor


def nearest_kept(states: Tensor, kept: Tensor) -> Merged:
    """For each of the states ``(n, D)`` outside ``kept (k,)``: the kept one of highest cosine, the first of equals."""
    unit = normalize(states)
    others = torch.ones(states.shape[0], dtype=torch.bool, device=states.device)
    others[kept] = False
    # As many as there are is known without asking the device.
    dropped = (~others).long().argsort(stable=True)[: states.shape[0] - kept.numel()]
    return Merged(dropped, (unit[dropped] @ unit[kept].T).argmax(dim=1))


def later_in_slot(slots: Tensor, count: int) -> Tensor:
    """``(m,)``: how many of the entries behind each one have the same slot, of ``count`` slots."""
    order = slots.argsort(stable=True)
    ends = torch.bincount(slots, minlength=count).cumsum(0)
    later = torch.empty_like(slots)
    later[order] = ends[slots[order]] - 1 - torch.arange(slots.numel(), device=slots.device)
    return later
