"""The state of one forward of a text model with a method between its layers."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..cache_state import LayerPositions
from .prompts import PromptTokens, Remaining, count_per_video, remaining_per_video


@dataclass(eq=False)
class ForwardPass:
    """One forward of the text model.

    Parameters
    ----------
    past: what each group of layers held before.
    first: what the first layer holds after it.
    new: ``(B, q)`` bool, False for padding among the positions of this forward; shorter after a cut.
    has_padding: whether any of them is padding.
    prompts: None if there is nothing to prune.
    groups: what the groups after the cuts that were reached hold.
    overrides: keyword arguments for the layers of the present group.
    tables: rotary tables ``(..., B, q, d)`` of the present group.
    queries, keys: ``(B, q, ...)`` of the layer before a cut, before their rotation.
    counts: of each prompt, the visual tokens of its videos in each group.
    remaining: of each prompt, what is left of its videos after each cut; empty unless recorded.
    """

    past: list[LayerPositions]
    first: LayerPositions
    new: Tensor
    has_padding: bool
    prompts: list[PromptTokens] | None
    groups: list[LayerPositions] = field(default_factory=list)
    overrides: dict[str, Any] = field(default_factory=dict)
    tables: tuple[Tensor, Tensor] | None = None
    queries: Tensor | None = None
    keys: Tensor | None = None
    counts: list[list[list[int]]] = field(default_factory=list)
    remaining: list[list[list[Remaining]]] = field(default_factory=list)

    def count_tokens(self, layer: int) -> None:
        """Count the visual tokens that remain after the cut before a layer."""
        for counts, remaining, prompt in zip(self.counts, self.remaining, self.prompts or (), strict=True):
            counts.append(count_per_video(prompt, len(counts[0])))
            if prompt.numbers is not None:
                remaining.append(remaining_per_video(prompt, len(counts[0]), layer))

    def remaining_of(self, entry: int, video: int) -> tuple[Remaining, ...]:
        """What is left of a video of a batch entry after each cut; empty unless recorded."""
        return tuple(cut[video] for cut in self.remaining[entry])
