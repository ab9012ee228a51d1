"""Tango inside the language model: FastV that merges what it drops (arXiv 2604.09547, Table 2)."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from ...registry import register_method
from ..common.checks import check_number
from ..common.similarity import compute_dtype
from .common.base import Cut, OneCut, PromptView, Step
from .common.merge import nearest_kept
from .fastv import by_last_token


@register_method
@dataclass(frozen=True)
class TangoFastV(OneCut):
    """Keep the visual tokens that the last prompt token looks at most, and merge each other one into the most similar.

    Chosen as by `FastV`. A kept token h becomes ``anchor_weight * h`` plus the rest of the mean of h and what was given
    to it. Kept tokens keep their positions. For the other fields see `OneCut`; the paper cuts in front of layer 18 and
    keeps half.

    Parameters
    ----------
    anchor_weight: weight of a kept token beside the mean of its group, in [0, 1].
    """

    name: ClassVar[str] = "tango-fastv"
    paper: ClassVar[str] = "https://arxiv.org/abs/2604.09547"
    official_repo: ClassVar[str] = "https://github.com/xjtupanda/Tango@cc815b6"
    paper_cuts: ClassVar[tuple[Cut, ...]] = (Cut(18, 0.5),)

    anchor_weight: float = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("anchor_weight", self.anchor_weight, 0, 1)

    def __call__(self, view: PromptView) -> Step:
        """See `Inside`."""
        indices = by_last_token(view, self.exact)
        states = view.hidden[view.visual]
        groups = nearest_kept(states, indices)
        exact = states.to(compute_dtype(states.dtype))
        kept = exact[indices]
        total = kept.index_add(0, groups.slots, exact[groups.dropped])
        members = 1 + torch.bincount(groups.slots, minlength=indices.numel())[:, None]
        values = self.anchor_weight * kept + (1 - self.anchor_weight) * total / members
        return Step(indices, values.to(states.dtype))
