"""HoliTom: its merging inside the language model (arXiv 2505.21334)."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from ...registry import register_method
from ..common.similarity import compute_dtype
from .common.base import Cut
from .common.merge import assign_to_kept, later_in_slot
from .common.schedules import SingleCut
from .common.view import LayerSelection, PromptView
from .fastv import most_attended


@register_method
@dataclass(frozen=True)
class HoliTomMerge(SingleCut):
    """Keep the visual tokens that the last prompt token attends to most, and average the others into them one by one.

    Kept tokens are selected as by `FastV`. Each of the others, in ascending order, is averaged with equal weight into
    the kept token of highest cosine: of n merged tokens the last has weight 1/2, the one before 1/4, and so on. Kept
    tokens keep their positions. The paper cuts before layer 18 and keeps half. For the parameters see `SingleCut`.
    """

    name: ClassVar[str] = "holitom-merge"
    paper: ClassVar[str] = "https://arxiv.org/abs/2505.21334"
    official_repo: ClassVar[str] = "https://github.com/cokeshao/HoliTom@e9b2972"
    paper_cuts: ClassVar[tuple[Cut, ...]] = (Cut(18, 0.5),)

    def __call__(self, view: PromptView) -> LayerSelection:
        indices = most_attended(view, self.exact)
        states = view.hidden[view.visual]
        groups = assign_to_kept(states, indices)
        exact = states.to(compute_dtype(states.dtype))
        members = torch.bincount(groups.slots, minlength=indices.numel())
        weights = 0.5 ** (1 + later_in_slot(groups.slots, indices.numel())).to(exact.dtype)
        kept = exact[indices] * (0.5 ** members.to(exact.dtype))[:, None]
        values = kept.index_add(0, groups.slots, exact[groups.dropped] * weights[:, None])
        return LayerSelection(indices, values.to(states.dtype))
