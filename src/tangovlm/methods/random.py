"""Random: tokens chosen by a hash of the video, so that the same video always gives the same choice."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..budget import count, validate_retention
from ..registry import register_method
from ..tokens import Selection, VideoTokens
from .common.checks import check_flag, check_integer
from .common.slots import best_of_frames, pick


def _signed(value: int) -> int:
    """The 64-bit two's complement number with the bits of an unsigned one."""
    return (value + 2**63) % 2**64 - 2**63


# The increment and the multipliers of the SplitMix64 generator (Steele, Lea and Flood, 2014).
_STEP = _signed(0x9E3779B97F4A7C15)
_FIRST, _SECOND = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


@register_method
@dataclass(frozen=True)
class Random:
    """Keep ``retention`` of the tokens of a video, each as likely as any other: the floor for every other method.

    Nothing is drawn: tokens are ranked by a hash of their place, the values of all tokens and `seed`. The hash is
    integer arithmetic on the bits of the features in float32, so the same features give the same choice on every
    run, device and version of torch.

    Parameters
    ----------
    retention: fraction to keep, in (0, 1]; 1 is the identity.
    exact: for the same face as other methods; there is no release to reproduce, so both keep exactly
        ``budget.count(retention, T * H * W)`` tokens.
    seed: integer >= 0; another seed gives another choice.

    Raises
    ------
    InputError: a retention outside (0, 1].
    MethodError: another parameter out of its range.
    """

    name: ClassVar[str] = "random"
    stage: ClassVar[str] = "pre-llm"
    paper: ClassVar[str] = ""
    official_repo: ClassVar[str] = ""
    needs: ClassVar[frozenset[str]] = frozenset()

    retention: float = 0.1
    exact: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        validate_retention(self.retention)
        check_flag("exact", self.exact)
        check_integer("seed", self.seed, 0)

    @torch.no_grad()
    def __call__(self, tokens: VideoTokens) -> Selection:
        """Reduce one video."""
        place = torch.arange(tokens.count, device=tokens.features.device)
        start = _mix(_digest(tokens.features) + _signed(self.seed * _STEP))
        ranks = _mix(start + place * _STEP)
        return pick(tokens, best_of_frames(ranks[None], [count(self.retention, tokens.count)]))


def _digest(features: Tensor) -> Tensor:
    """A number for the values of all tokens and their places: wrapping int64 sums, whose order cannot matter."""
    channel = _mix(torch.arange(1, features.shape[-1] + 1, device=features.device) * _STEP)
    digest = torch.zeros((), dtype=torch.int64, device=features.device)
    for t, frame in enumerate(features.flatten(1, 2)):
        # Adding zero makes a negative zero positive.
        bits = (frame.float() + 0.0).contiguous().view(torch.int32).long()
        place = torch.arange(t * len(bits), (t + 1) * len(bits), device=bits.device)
        digest = digest + _mix((_mix(bits + channel) * channel).sum(dim=1) + place * _STEP).sum()
    return digest


def _mix(x: Tensor) -> Tensor:
    """The finalizer of SplitMix64 on int64: a bijection that spreads every bit over all."""
    x = (x ^ _shift(x, 30)) * _FIRST
    x = (x ^ _shift(x, 27)) * _SECOND
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
