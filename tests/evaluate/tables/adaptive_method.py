"""A method whose content decides the count, which is not registered."""

from dataclasses import dataclass
from typing import ClassVar

from tangovlm.methods.common.base import PreLLMMethod
from tangovlm.tokens import Selection, VideoTokens


@dataclass(frozen=True)
class Adaptive(PreLLMMethod):
    """Adaptive if it has a threshold."""

    name: ClassVar[str] = "adaptive-twin"

    threshold: float | None = 1.0

    @property
    def adaptive(self) -> bool:
        return self.threshold is not None

    def reduce(self, tokens: VideoTokens, count: int) -> Selection:
        raise NotImplementedError
