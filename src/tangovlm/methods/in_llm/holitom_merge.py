"""HoliTom's merging inside the language model (arXiv 2505.21334)."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from ...registry import register_method
from ..common.similarity import compute_dtype
from .common.base import Cut, OneCut, PromptView, Step
from .common.merge import later_in_slot, nearest_kept
from .fastv import by_last_token


@register_method
@dataclass(frozen=True)
class HoliTomMerge(OneCut):
    """Keep the visual tokens that the last prompt token looks at most; the others are averaged into them one by one.

    Chosen as by `FastV`. Dropped tokens go, in ascending order, to the kept token of highest cosine, which is halved
    and takes half of each: the last one weighs 1/2, the one before 1/4, and so on. Kept tokens keep their positions.
    For the fields see `OneCut`; the paper cuts in front of layer 18 and keeps half.
    """

    name: ClassVar[str] = "holitom-merge"
    paper: ClassVar[str] = "https://arxiv.org/abs/2505.21334"
    official_repo: ClassVar[str] = "https://github.com/cokeshao/HoliTom@e9b2972"
    paper_cuts: ClassVar[tuple[Cut, ...]] = (Cut(18, 0.5),)

    def __call__(self, view: PromptView) -> Step:
        """See `Inside`."""
        indices = by_last_token(view, self.exact)
        states = view.hidden[view.visual]
        groups = nearest_kept(states, indices)
        exact = states.to(compute_dtype(states.dtype))
        members = torch.bincount(groups.slots, minlength=indices.numel())
        weights = 0.5 ** (1 + later_in_slot(groups.slots, indices.numel())).to(exact.dtype)
        kept = exact[indices] * (0.5 ** members.to(exact.dtype))[:, None]
        values = kept.index_add(0, groups.slots, exact[groups.dropped] * weights[:, None])
        return Step(indices, values.to(states.dtype))
