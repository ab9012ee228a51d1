"""PyramidDrop: drop visual tokens in several stages, more in deeper layers (arXiv 2410.17247)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from ...registry import register_method
from .common.base import Cut
from .common.schedules import MultiStage
from .common.view import LayerSelection, PromptView, highest


@register_method
@dataclass(frozen=True)
class PyramidDrop(MultiStage):
    """At each stage, keep the visual tokens that the last prompt token will attend to most, unchanged.

    The attention is that of the layer after the cut, computed on the states before it and averaged over the heads.
    Position ids are renumbered without gaps after each cut (with M-RoPE, on all three axes). The paper cuts before
    layers 8, 16 and 24 and keeps 1/2, 1/4 and 1/8 of the tokens. With ``exact=False`` counts are rounded down, as in
    the release. For the parameters see `MultiStage`.
    """

    name: ClassVar[str] = "pyramiddrop"
    paper: ClassVar[str] = "https://arxiv.org/abs/2410.17247"
    official_repo: ClassVar[str] = "https://github.com/Cooperx521/PyramidDrop@6444f30"
    probe_layer: ClassVar[Literal["before", "own"]] = "own"
    renumbers: ClassVar[bool] = True
    paper_cuts: ClassVar[tuple[Cut, ...]] = (Cut(8, 0.5), Cut(16, 0.25), Cut(24, 0.125))

    def __call__(self, view: PromptView) -> LayerSelection:
        keep = view.keep if self.exact else max(1, int(view.entered * view.ratio))
        indices = highest(view.probe.attention().mean(dim=(0, 1))[view.visual], keep)
        return LayerSelection(indices, view.hidden[view.visual[indices]])
