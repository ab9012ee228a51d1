"""What is held of a stream: segments, the oldest first, with at most so many tokens together.

While there are too many, the segment is reduced in which giving up a token loses least: by a quarter of its tokens, or
joined with its neighbour and the two reduced by a quarter. A loss is the distance of a token from the one that stands
for it; with a half-life, it counts half as much for each half-life of age. Each segment keeps at least one token until
it is joined, so that the number of segments is bounded too.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from typing import NamedTuple
from weakref import WeakKeyDictionary

from ..errors import InputError
from .segment import Segment, may_join, same_segments


class _Step(NamedTuple):
    """A reduction that could come next; the least comes first.

    Parameters
    ----------
    loss: of giving up one token, on average.
    start: first frame of the segment that is reduced; of equal losses, the oldest comes first.
    joins: whether the segment after it is joined to it.
    number: of the step, so that segments are never compared.
    segment, later: that are reduced; None for a segment alone.
    """

    loss: float
    start: int
    joins: bool
    number: int
    segment: Segment
    later: Segment | None

    @property
    def segments(self) -> list[Segment]:
        """Those that are reduced."""
        return [self.segment] if self.later is None else [self.segment, self.later]


class Memory:
    """Segments of a stream within a budget.

    Parameters
    ----------
    max_tokens: the largest number of tokens of all segments together.
    half_life_s: seconds in which a loss comes to count half as much; None for the same at every age.

    Raises
    ------
    InputError: a value out of range.

    Attributes
    ----------
    segments: those held, the oldest first. A segment is never changed, but replaced.
    """

    def __init__(self, max_tokens: int, half_life_s: float | None = None) -> None:
        if isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 1:
            raise InputError(f"max_tokens is {max_tokens!r}: give a whole number of at least 1, such as 4096")
        number = isinstance(half_life_s, (int, float)) and not isinstance(half_life_s, bool)
        if half_life_s is not None and not (number and 0 < half_life_s < inf):
            raise InputError(f"half_life_s is {half_life_s!r}: give seconds above 0, or leave it out")
        self.max_tokens = max_tokens
        self.half_life_s = half_life_s
        self.segments: list[Segment] = []
        self._pairs: WeakKeyDictionary[Segment, tuple[Segment, Segment]] = WeakKeyDictionary()

    @property
    def tokens(self) -> int:
        """Tokens of all segments."""
        return sum(map(len, self.segments))

    def add(self, segments: Sequence[Segment]) -> None:
        """Add segments at the end, and reduce what is held to the budget."""
        self.segments += segments
        self._fit()

    def preview(self, segments: Sequence[Segment]) -> list[Segment]:
        """What would be held after `add`, which is not carried out."""
        other = Memory(self.max_tokens, self.half_life_s)
        other.segments, other._pairs = list(self.segments), self._pairs
        other.add(segments)
        return other.segments

    def _fit(self) -> None:
        if (excess := self.tokens - self.max_tokens) <= 0:
            return
        held, numbers, now_s = self.segments, count(), self.segments[-1].end_s
        steps = [step for place in range(len(held)) for step in self._steps(place, numbers, now_s)]
        heapify(steps)
        while excess > 0:
            step = heappop(steps)
            place = bisect_left(held, step.start, key=lambda segment: segment.start)
            if not same_segments(held[place : place + 1 + step.joins], step.segments):
                continue  # one of them was replaced since
            whole = self._pair(*step.segments) if step.joins else step.segment
            given_up = min(len(whole.spare.tokens), excess)
            held[place : place + 1 + step.joins] = [whole.without(given_up)]
            excess -= given_up
            for changed in (place - 1, place):
                for each in self._steps(changed, numbers, now_s):
                    heappush(steps, each)

    def _steps(self, place: int, numbers: Iterator[int], now_s: float) -> Iterator[_Step]:
        """The reductions of the segment at a place, and of it with the one after it."""
        if place < 0:
            return
        segment, later = self.segments[place], next(iter(self.segments[place + 1 : place + 2]), None)
        if len(segment) > 1:
            yield _Step(self._loss(segment, now_s), segment.start, False, next(numbers), segment, None)
        if later is not None and may_join(segment, later):
            loss = self._loss(self._pair(segment, later), now_s)
            yield _Step(loss, segment.start, True, next(numbers), segment, later)

    def _loss(self, segment: Segment, now_s: float) -> float:
        """What giving up one token of a segment loses on average."""
        loss, age_s = segment.spare.loss, now_s - segment.end_s
        return loss if self.half_life_s is None else loss * float(0.5 ** (age_s / self.half_life_s))

    def _pair(self, segment: Segment, later: Segment) -> Segment:
        """Two neighbours as one segment, whose spare tokens are computed once."""
        known = self._pairs.get(segment)
        if known is None or known[0] is not later:
            known = self._pairs[segment] = later, segment.joined(later)
        return known[1]
