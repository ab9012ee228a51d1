"""FastV: drop the visual tokens that the last prompt token looks at least (arXiv 2403.06764)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...registry import register_method
from .common.base import Cut, OneCut, PromptView, Step, top


@register_method
@dataclass(frozen=True)
class FastV(OneCut):
    """Keep the visual tokens with the highest attention of the last prompt token, as they are.

    The attention is that of the layer before the cut, averaged over the heads. Kept tokens keep their positions. For
    the fields see `OneCut`; the paper cuts in front of layer 2 and keeps half.
    """

    name: ClassVar[str] = "fastv"
    paper: ClassVar[str] = "https://arxiv.org/abs/2403.06764"
    official_repo: ClassVar[str] = "https://github.com/pkunlp-icler/FastV@d165972"
    paper_cuts: ClassVar[tuple[Cut, ...]] = (Cut(2, 0.5),)

    def __call__(self, view: PromptView) -> Step:
        """See `Inside`."""
        indices = by_last_token(view, self.exact)
        return Step(indices, view.hidden[view.visual[indices]])


def by_last_token(view: PromptView, exact: bool) -> Tensor:
    """Ascending indices ``(k,)`` of the visual tokens that the last prompt token looks at most.

    The release of FastV, and what is built on it, rounds halves to even.
    """
    keep = view.keep if exact else max(1, round(view.ratio * view.entered))
    return top(view.probe.attention().mean(dim=(0, 1))[view.visual], keep)
