"""DART: keep the tokens that are least similar to a few pivot tokens (arXiv 2502.11494)."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import torch
from torch import Tensor

from ...budget import apportion
from ...registry import register_method
from ..common.checks import check_integer
from ..common.similarity import compute_dtype, normalize
from .common.base import Cut
from .common.schedules import SingleCut
from .common.view import LayerSelection, PromptView


@register_method
@dataclass(frozen=True)
class Dart(SingleCut):
    """Keep a few pivots and, for each pivot in turn, the visual tokens of lowest cosine to it, all unchanged.

    Pivots are the visual tokens, and the text tokens after them, whose keys in the layer before the cut have the
    largest L1 norm. Cosines are computed after the model's final norm. Kept tokens keep their positions. The paper cuts
    before layer 2 and keeps 2/9. With ``exact=True`` the shares of the pivots add up to the budget, which includes the
    pivots; with False every pivot gets the same number, rounded down, and the visual pivots are added.

    Parameters
    ----------
    retention, exact, layer, keep_ratio: see `SingleCut`.
    visual_pivots, text_pivots: number of pivots, >= 1 and >= 0.
    """

    name: ClassVar[str] = "dart"
    paper: ClassVar[str] = "https://arxiv.org/abs/2502.11494"
    official_repo: ClassVar[str] = "https://github.com/ModelTC/LightCompress@9701d03"
    paper_cuts: ClassVar[tuple[Cut, ...]] = (Cut(2, 0.222),)

    visual_pivots: int = 4
    text_pivots: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("visual_pivots", self.visual_pivots, 1)
        check_integer("text_pivots", self.text_pivots, 0)

    def __call__(self, view: PromptView) -> LayerSelection:
        pivots = self.pivots(view)
        chosen = self.choose(view.probe.norm(view.hidden), view, pivots)
        visual_pivots = torch.searchsorted(view.visual, pivots[: self._visual_pivots(view)])
        indices = torch.cat([visual_pivots, chosen]).sort().values
        return LayerSelection(indices, view.hidden[view.visual[indices]])

    def pivots(self, view: PromptView) -> Tensor:
        """Positions ``(p,)`` of the visual pivots, then of the text pivots, each by descending key norm."""
        keys = view.probe.keys()
        norms = keys.to(compute_dtype(keys.dtype)).abs().sum(dim=(0, 2))
        visual = _largest(norms, view.visual, self._visual_pivots(view))
        return torch.cat([visual, _largest(norms, view.text, self.text_pivots)])

    def choose(self, normed: Tensor, view: PromptView, pivots: Tensor) -> Tensor:
        """Indices of the visual tokens that are kept in addition to the visual pivots, pivot by pivot.

        Parameters
        ----------
        normed: ``(N, D)`` normed hidden states, for the cosines.
        pivots: ``(p,)`` positions, in the order in which they choose.
        """
        unit = normalize(normed)
        cosines = unit[pivots] @ unit[view.visual].T
        # Chosen tokens sort last.
        cosines.masked_fill_(torch.isin(view.visual, pivots), torch.inf)
        chosen = []
        for row, share in zip(range(len(pivots)), self._shares(view, len(pivots)), strict=True):
            chosen.append(cosines[row].sort(stable=True).indices[:share])
            cosines[:, chosen[-1]] = torch.inf
        return torch.cat(chosen)

    def _visual_pivots(self, view: PromptView) -> int:
        return min(self.visual_pivots, view.keep if self.exact else view.visual.numel())

    def _shares(self, view: PromptView, pivots: int) -> Sequence[int]:
        if self.exact:
            return apportion([Fraction(view.keep - self._visual_pivots(view), pivots)] * pivots)
        free = view.visual.numel() - self._visual_pivots(view)
        each = int(view.entered * view.ratio / (self.visual_pivots + self.text_pivots))
        return [max(0, min(each, free - done * each)) for done in range(pivots)]


def _largest(norms: Tensor, positions: Tensor, count: int) -> Tensor:
    """The `count` of the positions with the largest norms, in descending order; the first wins a tie."""
    return positions[norms[positions].sort(descending=True, stable=True).indices[:count]]
