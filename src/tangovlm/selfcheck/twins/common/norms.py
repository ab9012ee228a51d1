"""A method that needs no signal, so that a check of a model depends on nothing but the model."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from .... import budget
from ....tokens import Selection, VideoTokens


@dataclass(frozen=True)
class Norms:
    """A method that reads nothing but the features: keeps the longest tokens, halfway to their mean."""

    retention: float = 0.3
    name: ClassVar[str] = "norms"
    stage: ClassVar[str] = "pre-llm"
    needs: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, tokens: VideoTokens) -> Selection:
        flat = tokens.features.reshape(tokens.count, -1)
        kept = budget.count(self.retention, tokens.count)
        indices = flat.norm(dim=1).topk(kept).indices.sort().values
        sources = torch.full((tokens.count,), -1)
        sources[indices] = torch.arange(kept)
        features = 0.5 * (flat[indices] + flat.mean(0))
        return Selection(indices, features, sources.view(tokens.features.shape[:3]), (tokens.frames,))
