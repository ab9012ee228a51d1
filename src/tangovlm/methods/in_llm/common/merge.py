"""Assigning dropped hidden states to kept ones."""

from typing import NamedTuple

import torch
from torch import Tensor

from ...common.similarity import normalize


class Assignment(NamedTuple):
    """Dropped tokens, and the kept token that each is assigned to.

    Parameters
    ----------
    dropped: ``(m,)`` int64, ascending.
    slots: ``(m,)`` int64, index of the most similar kept token among the kept ones.
    """

    dropped: Tensor
    slots: Tensor


def assign_to_kept(states: Tensor, kept: Tensor) -> Assignment:
    """Assign ``states (n, D)`` outside ``kept (k,)`` to the kept one of highest cosine; the first wins a tie."""
    unit = normalize(states)
    others = torch.ones(states.shape[0], dtype=torch.bool, device=states.device)
    others[kept] = False
    # Their number is known without synchronizing with the device.
    dropped = (~others).long().argsort(stable=True)[: states.shape[0] - kept.numel()]
    return Assignment(dropped, (unit[dropped] @ unit[kept].T).argmax(dim=1))


def later_in_slot(slots: Tensor, count: int) -> Tensor:
    """``(m,)``: for each entry, how many later entries have the same slot, of ``count`` slots."""
    order = slots.argsort(stable=True)
    ends = torch.bincount(slots, minlength=count).cumsum(0)
    later = torch.empty_like(slots)
    later[order] = ends[slots[order]] - 1 - torch.arange(slots.numel(), device=slots.device)
    return later
