"""Selections of tokens that stay as they are, and the choice of the best of each frame."""

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

from ..budget import apportion
from ..tokens import Selection, VideoTokens
from .slots import Slots


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
