"""FastV: drop the visual tokens that the last prompt token attends to least (arXiv 2403.06764)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...registry import register_method
from .common.base import Cut
from .common.schedules import SingleCut
from .common.view import LayerSelection, PromptView, highest


@register_method
@dataclass(frozen=True)
class FastV(SingleCut):
    """Keep the visual tokens that the last prompt token attends to most, unchanged.

    The attention is that of the layer before the cut, averaged over the heads. Kept tokens keep their positions. The
    paper cuts before layer 2 and keeps half. For the parameters see `SingleCut`.
    """

    name: ClassVar[str] = "fastv"
    paper: ClassVar[str] = "https://arxiv.org/abs/2403.06764"
    official_repo: ClassVar[str] = "https://github.com/pkunlp-icler/FastV@d165972"
    paper_cuts: ClassVar[tuple[Cut, ...]] = (Cut(2, 0.5),)

    def __call__(self, view: PromptView) -> LayerSelection:
        indices = most_attended(view, self.exact)
        return LayerSelection(indices, view.hidden[view.visual[indices]])


def most_attended(view: PromptView, exact: bool) -> Tensor:
    """Ascending indices ``(k,)`` of the visual tokens that the last prompt token attends to most.

    The release of FastV, and the methods derived from it, round halves to even.
    """
    keep = view.keep if exact else max(1, round(view.ratio * view.entered))
    return highest(view.probe.attention().mean(dim=(0, 1))[view.visual], keep)
