"""Tango inside the language model: FastV that merges the tokens it drops (arXiv 2604.09547, Table 2)."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from ...registry import register_method
from ..common.checks import check_number
from ..common.similarity import compute_dtype
from .common.base import Cut
from .common.merge import assign_to_kept
from .common.schedules import SingleCut
from .common.view import LayerSelection, PromptView
from .fastv import most_attended


@register_method
@dataclass(frozen=True)
class TangoFastV(SingleCut):
    """Keep the visual tokens that the last prompt token attends to most, and merge the others into them.

    Kept tokens are selected as by `FastV`; each of the others is merged into the most similar one. A kept token h
    becomes ``anchor_weight * h + (1 - anchor_weight) * mean``, where the mean is that of h and the tokens merged into
    it. Kept tokens keep their positions. The paper cuts before layer 18 and keeps half.

    Parameters
    ----------
    retention, exact, layer, keep_ratio: see `SingleCut`.
    anchor_weight: weight of a kept token against the mean of its group, in [0, 1].
    """

    name: ClassVar[str] = "tango-fastv"
    paper: ClassVar[str] = "https://arxiv.org/abs/2604.09547"
    official_repo: ClassVar[str] = "https://github.com/xjtupanda/Tango@cc815b6"
    paper_cuts: ClassVar[tuple[Cut, ...]] = (Cut(18, 0.5),)

    anchor_weight: float = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("anchor_weight", self.anchor_weight, 0, 1)

    def __call__(self, view: PromptView) -> LayerSelection:
        indices = most_attended(view, self.exact)
        states = view.hidden[view.visual]
        groups = assign_to_kept(states, indices)
        exact = states.to(compute_dtype(states.dtype))
        kept = exact[indices]
        total = kept.index_add(0, groups.slots, exact[groups.dropped])
        members = 1 + torch.bincount(groups.slots, minlength=indices.numel())[:, None]
        values = self.anchor_weight * kept + (1 - self.anchor_weight) * total / members
        return LayerSelection(indices, values.to(states.dtype))
