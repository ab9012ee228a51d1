"""What the text model has seen through one cache, where dropped tokens make its length differ from the prompt's.

Shape letters: B rows of a batch, n positions of the cache, s of them up to the end of the last pruned forward.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from .carried import carried, carry, check_rows


@dataclass(frozen=True, eq=False)
class Trace:
    """Where the first s positions of a cache come from, for one that is cut there.

    Parameters
    ----------
    places: ``(B, s)`` int64, in the unpruned sequence.
    dropped: ``(B, s)`` int64, tokens that were dropped in front of each.
    following: ``(B, s)`` int64, the position id behind each and all in front of it; None where ids are only counted.
    """

    places: Tensor
    dropped: Tensor
    following: Tensor | None

    def each(self, change: Callable[[Tensor], Tensor]) -> "Trace":
        """With the same done to all of its parts."""
        following = None if self.following is None else change(self.following)
        return Trace(change(self.places), change(self.dropped), following)

    def then(self, other: "Trace") -> "Trace":
        """With more positions behind."""
        following = None
        if self.following is not None and other.following is not None:
            following = torch.cat([self.following, other.following], dim=1)
        return Trace(
            torch.cat([self.places, other.places], dim=1), torch.cat([self.dropped, other.dropped], dim=1), following
        )


@dataclass(frozen=True, eq=False)
class Seen:
    """What the text model has seen so far through one cache.

    Parameters
    ----------
    mask: ``(B, n)`` bool, which of the n positions of the cache are no padding.
    unpruned: positions that the cache would hold without pruning.
    padded: whether `mask` has any False (kept beside it, since asking the device costs a synchronisation).
    skipped: ``(B, 1)`` int64, how many tokens of each row were dropped.
    following: ``(B, 1)`` int64, the position id behind the last token, for ids of several rows; else None.
    trace: of the positions up to the last pruned forward.
    """

    mask: Tensor
    unpruned: int
    padded: bool
    skipped: Tensor
    following: Tensor | None
    trace: Trace

    def cropped(self, length: int) -> "Seen":
        """The state after the cache was cut to `length` positions.

        Assisted generation so takes rejected tokens back, and a prompt's beginning is used for several prompts.
        """
        gone, known = self.mask.shape[1] - length, self.trace.places.shape[1]
        if gone <= 0:
            return self
        mask = self.mask[:, :length]
        if length >= known:
            following = None if self.following is None else self.following - gone
            return replace(self, mask=mask, unpruned=self.unpruned - gone, following=following)
        if length == 0:
            return untouched(mask, self.following is not None)
        last = self.trace.each(lambda values: values[:, length - 1 : length])
        trace = self.trace.each(lambda values: values[:, :length])
        return Seen(mask, int(last.places.max()) + 1, self.padded, last.dropped, last.following, trace)

    @property
    def batch(self) -> int:
        """See `carried.State.batch`."""
        return self.mask.shape[0]

    def picked(self, index: Tensor) -> "Seen":
        """See `carried.State.picked`."""
        rows = index.to(self.mask.device)
        following = None if self.following is None else self.following[rows]
        trace = self.trace.each(lambda values: values[rows])
        return replace(self, mask=self.mask[rows], skipped=self.skipped[rows], following=following, trace=trace)

    def next_positions(self, valid: Tensor) -> Tensor:
        """Position ids of several rows, ``(3, B, Q)``, of text that comes next, for a model that has such.

        Parameters
        ----------
        valid: ``(B, Q)``, which of its tokens are no padding.
        """
        check_rows(self, len(valid))
        assert self.following is not None
        return (self.following + (valid.long().cumsum(dim=1) - 1).clamp_min(0)).expand(3, -1, -1)

    def traced(self) -> Trace:
        """The trace of all n positions: those behind the last pruned forward were all kept."""
        tail = self.mask.shape[1] - self.trace.places.shape[1]
        steps = torch.arange(tail, device=self.mask.device).expand(self.mask.shape[0], -1)
        following = None if self.following is None else self.following - tail + 1 + steps
        return self.trace.then(Trace(self.unpruned - tail + steps, self.skipped.expand(-1, tail), following))


@dataclass(frozen=True)
class Unpruned:
    """Passes for a cache of another length where stock code asks for nothing else."""

    length: int

    def get_seq_length(self) -> int:
        """The length."""
        return self.length


def seen(cache: Any) -> Seen | None:
    """The state of a cache, see `carried.carried`; None where nothing was pruned."""
    return None if cache is None else carried(cache, Seen)


def remember(cache: Any, state: Seen) -> None:
    """Leave the state on the cache, so that every generation has its own and copies of a cache take it along."""
    carry(cache, state)


def untouched(mask: Tensor, counts: bool) -> Seen:
    """The state of a cache that stock code filled with all there was.

    Parameters
    ----------
    mask: ``(B, n)`` bool, which of its positions are no padding.
    counts: whether position ids have several rows.
    """
    batch, length = mask.shape
    zeros = mask.new_zeros(batch, 1, dtype=torch.long)
    behind = mask.long().cumsum(dim=1) if counts else None
    places = torch.arange(length, device=mask.device).expand(batch, -1)
    last = None if behind is None else pad(behind, (1, 0))[:, -1:]
    return Seen(mask, length, True, zeros, last, Trace(places, zeros.expand(-1, length), behind))
