"""Uniform: tokens spread evenly over time, rows and columns, independent of their content."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..registry import register_method
from ..tokens import Selection, VideoTokens
from .common.base import PreLLMMethod
from .common.selection import keep_only

# Phases are multiples of 1 / _UNIT. The strides are odd, so that every phase occurs, and close to the golden ratio and
# to the square root of 2, each modulo 1.
_UNIT = 1 << 16
_FRAME_STRIDE, _ROW_STRIDE = 27147, 40503


@register_method
@dataclass(frozen=True)
class Uniform(PreLLMMethod):
    """Keep tokens that are evenly spread over frames, rows and columns; only the shape of the grid matters.

    The counts of the frames differ by at most one, and so do those of the rows in a frame. The pattern is shifted from
    frame to frame and from row to row, so that every position is kept at some time: keeping every n-th token would
    select the same columns in every frame if n and the width of the grid have a common factor.

    Parameters
    ----------
    retention: fraction to keep, in (0, 1]; 1 is the identity.
    exact: has no effect, since there is no release to reproduce: exactly ``budget.count(retention, T * H * W)`` tokens
        are kept.

    Raises
    ------
    InputError: a retention outside (0, 1].
    MethodError: another parameter outside its range.
    """

    name: ClassVar[str] = "uniform"

    def reduce(self, tokens: VideoTokens, count: int) -> Selection:
        frames, rows = torch.arange(tokens.frames), torch.arange(tokens.frames * tokens.height)
        in_frame = _spread(torch.tensor(count), tokens.frames, torch.tensor(_UNIT // 2))
        in_row = _spread(in_frame, tokens.height, frames * _FRAME_STRIDE % _UNIT).flatten()
        at_token = _spread(in_row, tokens.width, rows * _ROW_STRIDE % _UNIT).flatten()
        return keep_only(tokens, (at_token > 0).to(tokens.features.device))


def _spread(totals: Tensor, bins: int, phase: Tensor) -> Tensor:
    """``(..., bins)`` int64: each of ``totals (...)`` split over bins, at most one apart, shifted by ``phase``."""
    edges = torch.arange(bins + 1)
    return ((totals[..., None] * edges * _UNIT + phase[..., None] * bins) // (bins * _UNIT)).diff(dim=-1)
