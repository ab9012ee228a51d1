"""PyramidDrop: drop visual tokens in several stages, the deeper the more (arXiv 2410.17247)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from ...registry import register_method
from .common.base import Cut, PromptView, Stages, Step, top


@register_method
@dataclass(frozen=True)
class PyramidDrop(Stages):
    """At each stage keep the visual tokens that the last prompt token is about to look at most, as they are.

    The attention is what the layer behind the cut would compute from the present states, averaged over the heads.
    Positions are counted anew behind each cut, without gaps (on models with three rows of positions, in all three).
    For the fields see `Stages`; the paper cuts in front of layers 8, 16 and 24 and leaves 1/2, 1/4 and 1/8 of the
    tokens. With `exact` off they are rounded down, as in the release.
    """

    name: ClassVar[str] = "pyramiddrop"
    paper: ClassVar[str] = "https://arxiv.org/abs/2410.17247"
    official_repo: ClassVar[str] = "https://github.com/Cooperx521/PyramidDrop@6444f30"
    looks_at: ClassVar[Literal["before", "own"]] = "own"
    renumbers: ClassVar[bool] = True
    paper_cuts: ClassVar[tuple[Cut, ...]] = (Cut(8, 0.5), Cut(16, 0.25), Cut(24, 0.125))

    def __call__(self, view: PromptView) -> Step:
        """See `Inside`."""
        keep = view.keep if self.exact else max(1, int(view.entered * view.ratio))
        indices = top(view.probe.attention().mean(dim=(0, 1))[view.visual], keep)
        return Step(indices, view.hidden[view.visual[indices]])
