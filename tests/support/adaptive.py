"""A method whose number of kept tokens depends on the content."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from tangovlm.methods.common.base import PreLLMMethod
from tangovlm.methods.common.selection import keep_only
from tangovlm.tokens import Selection, VideoTokens


@dataclass(frozen=True)
class LargeTokens(PreLLMMethod):
    """Keeps the tokens with the largest norms; with a floor, of these only those above that multiple of the mean."""

    name: ClassVar[str] = "large-tokens"
    adaptive_fields: ClassVar[Mapping[str, Any]] = {"exact": False, "floor": 1.0}

    floor: float = 0.0

    @property
    def adaptive(self) -> bool:
        return self.floor > 0

    def reduce(self, tokens: VideoTokens, count: int) -> Selection:
        norms = tokens.features.float().norm(dim=-1).flatten()
        top = norms.topk(count).indices
        return keep_only(tokens, top[norms[top] >= self.floor * norms.mean()].sort().values)


def adaptive(retention: float, floor: float = 1.0) -> LargeTokens:
    """The method with adaptive counts."""
    return LargeTokens(retention=retention, exact=False, floor=floor)


def largest(tokens: torch.Tensor, floor: float = 1.0) -> int:
    """How many tokens ``(N, D)`` are above the floor."""
    norms = tokens.float().norm(dim=-1)
    return int((norms >= floor * norms.mean()).sum())
