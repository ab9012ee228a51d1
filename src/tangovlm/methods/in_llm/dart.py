"""DART: keep what is least like a few pivot tokens (arXiv 2502.11494)."""

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
from .common.base import Cut, OneCut, PromptView, Step


@register_method
@dataclass(frozen=True)
class Dart(OneCut):
    """Keep a few pivots and, for each pivot in turn, the visual tokens of lowest cosine to it; values stay.

    Pivots are the visual tokens, and the tokens of the text behind them, with the largest L1 norm of their keys in the
    layer before the cut. Cosines are taken after the model's final norm. Kept tokens keep their positions. For the
    other fields see `OneCut`; the paper cuts in front of layer 2 and keeps 2/9. With `exact` on, the pivots' shares add
    up to the budget, pivots included; off, each takes the same number, rounded down, and the visual pivots come on top.

    Parameters
    ----------
    visual_pivots, text_pivots: how many, >= 1 and >= 0.
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

    def __call__(self, view: PromptView) -> Step:
        """See `Inside`."""
        pivots = self.pivots(view)
        chosen = self.choose(view.probe.norm(view.hidden), view, pivots)
        indices = torch.cat([torch.searchsorted(view.visual, pivots[: self._visual(view)]), chosen]).sort().values
        return Step(indices, view.hidden[view.visual[indices]])

    def pivots(self, view: PromptView) -> Tensor:
        """Positions ``(p,)`` of the visual pivots by descending key norm, then of the text pivots likewise."""
        keys = view.probe.keys()
        norms = keys.to(compute_dtype(keys.dtype)).abs().sum(dim=(0, 2))
        visual = _largest(norms, view.visual, self._visual(view))
        return torch.cat([visual, _largest(norms, view.text, self.text_pivots)])

    def choose(self, normed: Tensor, view: PromptView, pivots: Tensor) -> Tensor:
        """Indices of the visual tokens that are taken beside the visual pivots, pivot by pivot.

        Parameters
        ----------
        normed: ``(N, D)``, where cosines are taken.
        pivots: ``(p,)`` positions; their order counts.
        """
        unit = normalize(normed)
        cosines = unit[pivots] @ unit[view.visual].T
        # Taken tokens lie above every cosine.
        cosines.masked_fill_(torch.isin(view.visual, pivots), torch.inf)
        taken = []
        for row, share in zip(range(len(pivots)), self._shares(view, len(pivots)), strict=True):
            taken.append(cosines[row].sort(stable=True).indices[:share])
            cosines[:, taken[-1]] = torch.inf
        return torch.cat(taken)

    def _visual(self, view: PromptView) -> int:
        return min(self.visual_pivots, view.keep if self.exact else view.visual.numel())

    def _shares(self, view: PromptView, pivots: int) -> Sequence[int]:
        if self.exact:
            return apportion([Fraction(view.keep - self._visual(view), pivots)] * pivots)
        free = view.visual.numel() - self._visual(view)
        each = int(view.entered * view.ratio / (self.visual_pivots + self.text_pivots))
        return [max(0, min(each, free - done * each)) for done in range(pivots)]


def _largest(norms: Tensor, positions: Tensor, count: int) -> Tensor:
    """The `count` of the positions with the largest norms, in descending order; the first of equals first."""
    return positions[norms[positions].sort(descending=True, stable=True).indices[:count]]
