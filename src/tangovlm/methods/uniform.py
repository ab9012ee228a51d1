"""Uniform: tokens spread evenly over time, rows and columns, whatever they show."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..budget import count, validate_retention
from ..registry import register_method
from ..tokens import Selection, VideoTokens
from .common.checks import check_flag
from .common.slots import pick

# Phases are fractions of this. The strides are odd, so that all phases come up, and near its golden section and the
# square root of 2, less 1.
_UNIT = 1 << 16
_FRAME_STRIDE, _ROW_STRIDE = 27147, 40503


@register_method
@dataclass(frozen=True)
class Uniform:
    """Keep ``retention`` of the tokens of a video, evenly over frames, rows and columns, without looking at them.

    Every frame keeps as many tokens as every other or one more; so does every row of a frame and every column of a
    row. From frame to frame and row to row the pattern is shifted, so that over time no position is left out: taking
    every n-th token would keep the same columns of every frame where n and the grid's width have a common factor.

    Parameters
    ----------
    retention: fraction to keep, in (0, 1]; 1 is the identity.
    exact: for the same face as other methods; there is no release to reproduce, so both keep exactly
        ``budget.count(retention, T * H * W)`` tokens.

    Raises
    ------
    InputError: a retention outside (0, 1].
    MethodError: another parameter out of its range.
    """

    name: ClassVar[str] = "uniform"
    stage: ClassVar[str] = "pre-llm"
    paper: ClassVar[str] = ""
    official_repo: ClassVar[str] = ""
    needs: ClassVar[frozenset[str]] = frozenset()

    retention: float = 0.1
    exact: bool = True

    def __post_init__(self) -> None:
        validate_retention(self.retention)
        check_flag("exact", self.exact)

    @torch.no_grad()
    def __call__(self, tokens: VideoTokens) -> Selection:
        """Reduce one video; only the shape of its grid decides."""
        total = torch.tensor(count(self.retention, tokens.count))
        frames, height = torch.arange(tokens.frames), torch.arange(tokens.frames * tokens.height)
        of_frame = _spread(total, tokens.frames, torch.tensor(_UNIT // 2))
        of_row = _spread(of_frame, tokens.height, frames * _FRAME_STRIDE % _UNIT).flatten()
        of_token = _spread(of_row, tokens.width, height * _ROW_STRIDE % _UNIT).flatten()
        return pick(tokens, (of_token > 0).to(tokens.features.device))


def _spread(totals: Tensor, bins: int, phase: Tensor) -> Tensor:
    """``(..., bins)`` int64: each of ``totals (...)`` over bins, at most one apart, shifted by ``phase`` units."""
    edges = torch.arange(bins + 1)
    return ((totals[..., None] * edges * _UNIT + phase[..., None] * bins) // (bins * _UNIT)).diff(dim=-1)
