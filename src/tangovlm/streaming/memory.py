"""What is held of a stream: segments, the oldest first, with at most so many tokens together.

While there are too many, the segment is reduced in which giving up a token loses least: by a quarter of its tokens, or
joined with its neighbour and the two reduced by a quarter. A loss is the distance of a token from the one that stands
for it; with a half-life, it counts half as much for each half-life of age. Each segment keeps at least one token until
it is joined, so that the number of segments is bounded too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from weakref import WeakKeyDictionary

from ..errors import InputError
from .segment import Segment, may_join


@dataclass(frozen=True, eq=False)
class _Step:
    """A reduction that could come next.

    Parameters
    ----------
    place: of the segment that is reduced.
    segment: this one, or it and the one after it joined.
    joins: whether they are joined.
    """

    place: int
    segment: Segment
    joins: bool


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
        while (excess := self.tokens - self.max_tokens) > 0:
            step = min(self._steps(), key=self._loss)
            number = min(len(step.segment.spare.tokens), excess)
            self.segments[step.place : step.place + 1 + step.joins] = [step.segment.without(number)]

    def _steps(self) -> Iterator[_Step]:
        """All reductions that are possible: at least one if there are two tokens."""
        for place, segment in enumerate(self.segments):
            if len(segment) > 1:
                yield _Step(place, segment, joins=False)
            later = self.segments[place + 1] if place + 1 < len(self.segments) else None
            if later is not None and may_join(segment, later):
                yield _Step(place, self._pair(segment, later), joins=True)

    def _loss(self, step: _Step) -> float:
        """What giving up one token loses on average."""
        loss, age_s = step.segment.spare.loss, self.segments[-1].end_s - step.segment.end_s
        return loss if self.half_life_s is None else loss * float(0.5 ** (age_s / self.half_life_s))

    def _pair(self, segment: Segment, later: Segment) -> Segment:
        """Two neighbours as one segment, whose spare tokens are computed once."""
        known = self._pairs.get(segment)
        if known is None or known[0] is not later:
            known = self._pairs[segment] = later, segment.joined(later)
        return known[1]
