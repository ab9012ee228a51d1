"""Assembling a `Selection`, and moving small tensors between host and device without needless synchronization."""

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

from ...budget import apportion
from ...tokens import Selection, VideoTokens


class SelectionBuilder:
    """Collects which of the N tokens are kept, which slot each token goes into, and merged values.

    A slot is identified by the grid index of the token at its position. All tensors are on the device of the features.
    """

    def __init__(self, tokens: VideoTokens) -> None:
        features = tokens.features.flatten(0, 2)
        self._tokens = tokens
        self._kept = torch.zeros(len(features), dtype=torch.bool, device=features.device)
        self._slot_of_token = torch.full((len(features),), -1, device=features.device)
        self._values: list[tuple[Tensor, Tensor]] = []

    def keep(self, tokens: Tensor) -> None:
        """Keep each of these tokens, int64 of any shape, in its own slot."""
        self._kept[tokens] = True
        self._slot_of_token[tokens] = tokens

    def assign(self, tokens: Tensor, slots: Tensor) -> None:
        """Record the slot that each token is merged into, both int64 of one shape; -1 means dropped."""
        self._slot_of_token[tokens] = slots

    def set_values(self, slots: Tensor, values: Tensor) -> None:
        """Set the features ``(..., D)`` of slots ``(...)``; a later call wins, slots that are not kept are ignored."""
        self._values.append((slots.flatten(), values.flatten(0, -2)))

    def build(self, segments: tuple[int, ...], total: int | None = None) -> Selection:
        """The kept tokens in grid order.

        Parameters
        ----------
        segments: frames of each segment.
        total: number of kept tokens; None counts them, which synchronizes with the device.
        """
        total = int(self._kept.sum()) if total is None else total
        indices = true_indices(self._kept, total)
        number = torch.where(self._kept, self._kept.cumsum(0) - 1, total)
        features = self._tokens.features.flatten(0, 2)
        # The extra last slot receives the values of tokens that are not kept.
        values = features.new_empty(total + 1, features.shape[1])
        values[:total] = features[indices]
        for slots, merged in self._values:
            values[number[slots]] = merged.to(values.dtype)
        sources = torch.where(self._slot_of_token >= 0, number[self._slot_of_token.clamp_min(0)], -1)
        return Selection(indices, values[:total], sources.view(self._tokens.features.shape[:3]), segments)


def keep_all(tokens: VideoTokens, segments: tuple[int, ...]) -> Selection:
    """Every token in its own slot, unchanged."""
    indices = torch.arange(tokens.count, device=tokens.features.device)
    grid = (tokens.frames, tokens.height, tokens.width)
    return Selection(indices, tokens.features.flatten(0, 2).clone(), indices.view(grid).clone(), segments)


def keep_only(tokens: VideoTokens, chosen: Tensor) -> Selection:
    """The chosen tokens, unchanged, each in its own slot; the others are dropped.

    Parameters
    ----------
    chosen: ``(N,)`` bool mask, or int64 grid indices in any order.
    """
    builder = SelectionBuilder(tokens)
    builder.keep(chosen.nonzero().flatten() if chosen.dtype == torch.bool else chosen)
    return builder.build((tokens.frames,))


def top_indices(scores: Tensor, keep: int) -> Tensor:
    """Indices ``(B, keep)`` of the highest of ``scores (B, n)``, in descending order; the lowest index wins a tie."""
    return scores.sort(dim=-1, descending=True, stable=True).indices[:, :keep]


def top_per_frame(scores: Tensor, counts: Sequence[int]) -> Tensor:
    """``(N,)`` bool: the ``counts[t]`` highest of ``scores (T, L)`` in each frame t; the lowest index wins a tie."""
    order = scores.sort(dim=-1, descending=True, stable=True).indices
    rank = torch.arange(scores.shape[1], device=scores.device)
    chosen = rank < torch.tensor(counts, device=scores.device)[:, None]
    return torch.zeros_like(chosen).scatter_(1, order, chosen).flatten()


def take(values: Tensor, indices: Tensor) -> Tensor:
    """``(B, k, D)``: ``values (B, n, D)`` at ``indices (B, k)``."""
    return values.gather(1, indices[..., None].expand(-1, -1, values.shape[2]))


def even_counts(total: int, frames: int) -> list[int]:
    """Split ``total`` tokens over ``frames`` frames; counts differ by at most one, the larger ones evenly spaced."""
    return apportion([Fraction(total, frames)] * frames)


def to_host(*values: Tensor) -> list[Tensor]:
    """Copies of floating-point tensors on the host, in a single transfer."""
    packed = torch.cat([value.flatten() for value in values]).cpu()
    sizes = [value.numel() for value in values]
    parts = torch.split(packed, sizes)
    return [part.view(value.shape).to(value.dtype) for part, value in zip(parts, values, strict=True)]


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy a host tensor to a device without waiting for the copy."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def true_indices(mask: Tensor, number: int) -> Tensor:
    """``(number,)`` int64, ascending: the indices where ``mask (n,)`` is True; there are ``number`` of them.

    On an accelerator the number is not read back, so that nothing waits for the device.
    """
    if mask.device.type == "cpu":
        indices = mask.nonzero().flatten()
        assert len(indices) == number
        return indices
    return mask.byte().sort(descending=True, stable=True).indices[:number]
