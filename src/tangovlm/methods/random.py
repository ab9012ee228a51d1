"""Random: tokens chosen by a hash of the video, so that the same video always gives the same selection."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..registry import register_method
from ..tokens import Selection, VideoTokens
from .common.base import PreLLMMethod
from .common.checks import check_integer
from .common.selection import keep_only, top_per_frame


def _signed(value: int) -> int:
    """Reinterpret an unsigned 64-bit number as a signed one (two's complement)."""
    return (value + 2**63) % 2**64 - 2**63


# The increment and the multipliers of the SplitMix64 generator (Steele, Lea and Flood, 2014).
_STEP = _signed(0x9E3779B97F4A7C15)
_FIRST, _SECOND = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


@register_method
@dataclass(frozen=True)
class Random(PreLLMMethod):
    """Keep pseudorandom tokens, each with the same probability: the lower bound for every other method.

    No random generator is used: tokens are ranked by a hash of their position, the values of all tokens and `seed`.
    The hash is integer arithmetic on the bits of the features in float32, so that the same features give the same
    selection on every run, device and version of torch.

    Parameters
    ----------
    retention: fraction to keep, in (0, 1]; 1 is the identity.
    exact: has no effect, since there is no release to reproduce: exactly ``budget.count(retention, T * H * W)`` tokens
        are kept.
    seed: integer >= 0; another seed gives another selection.

    Raises
    ------
    InputError: a retention outside (0, 1].
    MethodError: another parameter outside its range.
    """

    name: ClassVar[str] = "random"

    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("seed", self.seed, 0)

    def reduce(self, tokens: VideoTokens, count: int) -> Selection:
        place = torch.arange(tokens.count, device=tokens.features.device)
        start = _mix(_digest(tokens.features) + _signed(self.seed * _STEP))
        ranks = _mix(start + place * _STEP)
        return keep_only(tokens, top_per_frame(ranks[None], [count]))


def _digest(features: Tensor) -> Tensor:
    """A hash of the values and positions of all tokens: wrapping int64 sums, which do not depend on their order."""
    channel = _mix(torch.arange(1, features.shape[-1] + 1, device=features.device) * _STEP)
    digest = torch.zeros((), dtype=torch.int64, device=features.device)
    for t, frame in enumerate(features.flatten(1, 2)):
        # Adding zero turns a negative zero into a positive one.
        bits = (frame.float() + 0.0).contiguous().view(torch.int32).long()
        place = torch.arange(t * len(bits), (t + 1) * len(bits), device=bits.device)
        digest = digest + _mix((_mix(bits + channel) * channel).sum(dim=1) + place * _STEP).sum()
    return digest


def _mix(x: Tensor) -> Tensor:
    """The finalizer of SplitMix64 on int64: a bijection in which every input bit affects every output bit."""
    x = (x ^ _shift(x, 30)) * _FIRST
    x = (x ^ _shift(x, 27)) * _SECOND
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
