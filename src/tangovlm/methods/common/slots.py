"""The kept tokens of one video while it is reduced, and selections of tokens that stay as they are."""

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

from ...budget import apportion
from ...tokens import Selection, VideoTokens
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


def keep_all(tokens: VideoTokens, segments: tuple[int, ...]) -> Selection:
    """Every token in a slot of its own, its features unchanged."""
    indices = torch.arange(tokens.count, device=tokens.features.device)
    grid = (tokens.frames, tokens.height, tokens.width)
    return Selection(indices, tokens.features.flatten(0, 2).clone(), indices.view(grid).clone(), segments)


def pick(tokens: VideoTokens, kept: Tensor) -> Selection:
    """The tokens where ``kept (N,)`` bool is True, unchanged, each in a slot of its own; the others are dropped."""
    slots = Slots(tokens)
    slots.keep(kept.nonzero().flatten())
    return slots.finish((tokens.frames,))


def best_of_frames(scores: Tensor, counts: Sequence[int]) -> Tensor:
    """``(N,)`` bool: the ``counts[t]`` highest of ``scores (T, L)`` of each frame t; the lowest of equals first."""
    order = scores.sort(dim=-1, descending=True, stable=True).indices
    rank = torch.arange(scores.shape[1], device=scores.device)
    wanted = rank < torch.tensor(counts, device=scores.device)[:, None]
    return torch.zeros_like(wanted).scatter_(1, order, wanted).flatten()


def even_counts(total: int, frames: int) -> list[int]:
    """``total`` tokens over ``frames`` frames: counts that differ by at most one, none favoured by its place."""
    return apportion([Fraction(total, frames)] * frames)
