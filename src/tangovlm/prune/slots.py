"""The kept tokens of one video while it is reduced, and the `Selection` that they make at the end."""

import torch
from torch import Tensor

from ..tokens import Selection, VideoTokens
from .transfer import positions


class Slots:
    """Which of the N tokens are kept, where each token went, and the merged values; on the device of the features.

    A slot is named by the grid index of the token that stands in it. Writing to a slot again replaces its value.
    """

    def __init__(self, tokens: VideoTokens) -> None:
        features = tokens.features.flatten(0, 2)
        self._tokens = tokens
        self._kept = torch.zeros(len(features), dtype=torch.bool, device=features.device)
        self._home = torch.full((len(features),), -1, device=features.device)
        self._written: list[tuple[Tensor, Tensor]] = []

    def keep(self, tokens: Tensor) -> None:
        """Give each of these tokens, int64 of any shape, a slot of its own."""
        self._kept[tokens] = True
        self._home[tokens] = tokens

    def send(self, tokens: Tensor, slots: Tensor) -> None:
        """Note that each token went into the slot beside it, both int64 of one shape; -1 means dropped."""
        self._home[tokens] = slots

    def write(self, slots: Tensor, values: Tensor) -> None:
        """Put ``values (..., D)`` into slots ``(...)``; those for tokens that are not kept are lost."""
        self._written.append((slots.flatten(), values.flatten(0, -2)))

    def finish(self, segments: tuple[int, ...], total: int | None = None) -> Selection:
        """The kept tokens in the order of the grid.

        Parameters
        ----------
        total: how many they are; None asks the device.
        """
        total = int(self._kept.sum()) if total is None else total
        places = positions(self._kept, total)
        number = torch.where(self._kept, self._kept.cumsum(0) - 1, total)
        features = self._tokens.features.flatten(0, 2)
        # The last row takes what was written for tokens that are not kept.
        values = features.new_empty(total + 1, features.shape[1])
        values[:total] = features[places]
        for slots, merged in self._written:
            values[number[slots]] = merged.to(values.dtype)
        sources = torch.where(self._home >= 0, number[self._home.clamp_min(0)], -1)
        return Selection(places, values[:total], sources.view(self._tokens.features.shape[:3]), segments)
