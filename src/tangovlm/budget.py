"""Token budgets: the only module that turns a ratio into a count.

`count` applies the library's rounding rule, `apportion` and `proportional` split a count into parts, and the functions
named ``*_group_counts`` split it over the segments of a video. The equivalent retention (Tango paper, Eq. 1), which
relates the ratios before and inside the language model, is here too.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from numbers import Real

from .errors import InputError

# Bounds in messages have four decimals, rounded towards the accepted side.
_DIGITS = 10**4


def validate_retention(retention: object) -> float:
    """Return a retention, the fraction of tokens to keep, as a float.

    Raises
    ------
    InputError: it is not a real number in (0, 1].
    """
    if isinstance(retention, bool) or not isinstance(retention, Real) or not 0 < retention <= 1:  # type: ignore[operator]
        raise InputError(f"retention must be a number in (0, 1], the fraction of tokens to keep, not {retention!r}")
    return float(retention)


def exact(ratio: float) -> Fraction:
    """The decimal fraction that a float is written as: 0.1 is 1/10, not the nearest binary number."""
    return Fraction(repr(float(ratio)))


def round_half_up(value: Fraction) -> int:
    """Round to the nearest integer, halves upwards."""
    return math.floor(value + Fraction(1, 2))


def count(retention: float, n: int) -> int:
    """Tokens to keep of ``n``: ``max(1, round_half_up(retention * n))`` in exact arithmetic.

    >>> count(0.1, 6272), count(0.29, 100), count(0.145, 100)
    (627, 29, 15)

    Raises
    ------
    InputError: retention outside (0, 1], or n < 1.
    """
    ratio = validate_retention(retention)
    if n < 1:
        raise InputError(f"cannot keep a fraction of {n} tokens: the grid must have at least one")
    return max(1, round_half_up(exact(ratio) * n))


def apportion(shares: Iterable[Fraction]) -> list[int]:
    """Round ``shares`` to integers such that every running total is the rounded running total of the shares.

    No share is favoured by its position, and the sum is the rounded sum.

    >>> apportion([Fraction(1, 3)] * 6)
    [0, 1, 0, 0, 1, 0]
    """
    total = Fraction(0)
    bounds = [0]
    for share in shares:
        total += share
        bounds.append(round_half_up(total))
    return [after - before for before, after in pairwise(bounds)]


def proportional(total: int, weights: Sequence[float | Fraction], caps: Sequence[int]) -> list[int]:
    """Split ``total`` in proportion to ``weights``, each above 0, with at most ``caps[i]`` for part i.

    The excess of a full part is split over the others in proportion. The sum is ``total``, or the sum of all caps if
    that is less. Rounded as in `apportion`.

    >>> proportional(10, [1, 1, 8], [9, 9, 4])
    [3, 3, 4]
    """
    return apportion(_fill([Fraction(weight) for weight in weights], caps, total))


def equivalent_retention(per_layer: Sequence[float]) -> float:
    """Mean kept fraction over the layers of the language model (Tango paper, Eq. 1).

    Raises
    ------
    InputError: there are no layers, or a fraction is outside [0, 1].
    """
    if not per_layer or not all(0 <= ratio <= 1 for ratio in per_layer):
        raise InputError(f"per_layer must have one kept fraction in [0, 1] per layer, not {list(per_layer)!r}")
    return float(sum(exact(ratio) for ratio in per_layer) / len(per_layer))


def kept_per_layer(cuts: Sequence[tuple[int, float]], layers: int) -> list[Fraction]:
    """Kept fraction in each of ``layers`` layers; a cut ``(layer, kept)`` sets the fraction from that layer on.

    >>> [float(kept) for kept in kept_per_layer([(1, 0.5), (3, 0.25)], 4)]
    [1.0, 0.5, 0.5, 0.25]

    Raises
    ------
    InputError: the layers do not ascend within 0..layers, or a fraction is outside [0, 1].
    """
    bounds = [0, *(layer for layer, _ in cuts), layers]
    if layers < 1 or any(after < before for before, after in pairwise(bounds)):
        raise InputError(f"layers must ascend within 0..{layers}, not {bounds[1:-1]}")
    if not all(0 <= kept <= 1 for _, kept in cuts):
        raise InputError(f"a kept fraction must be in [0, 1], not {[kept for _, kept in cuts]}")
    fractions = [Fraction(1), *(exact(kept) for _, kept in cuts)]
    return [kept for kept, (start, end) in zip(fractions, pairwise(bounds), strict=True) for _ in range(start, end)]


def before_llm(equivalent: float, per_layer: Sequence[Fraction]) -> float:
    """Fraction to keep before the language model, given the fractions ``per_layer`` of it that each layer keeps.

    Eq. 1 solved for that fraction, so that the mean over the layers is ``equivalent``.

    Raises
    ------
    InputError: ``equivalent`` is outside (0, 1], or above the mean that results if everything is kept before the model.
    """
    validate_retention(equivalent)
    most = sum(per_layer, Fraction(0)) / len(per_layer)
    if exact(equivalent) > most:
        raise InputError(
            f"an average of {equivalent} is out of reach: pruning inside the model leaves at most "
            f"{math.floor(most * _DIGITS) / _DIGITS} of the tokens on average"
        )
    return float(exact(equivalent) / most)


def pre_llm_retention(equivalent: float, *, after_layer: int, keep: float, layers: int) -> float:
    """Fraction to keep before the language model if ``keep`` of it is kept after ``after_layer`` layers.

    >>> round(pre_llm_retention(0.1, after_layer=18, keep=0.5, layers=28), 5)
    0.12174

    Raises
    ------
    InputError: see `kept_per_layer` and `before_llm`.
    """
    return before_llm(equivalent, kept_per_layer([(after_layer, validate_retention(keep))], layers))


def schedule(equivalent: float, cuts: Sequence[tuple[int, float]], layers: int) -> list[float]:
    """Fractions to keep from each cut's layer on, such that their mean over the layers (Eq. 1) is ``equivalent``.

    They are the given fractions raised to one common power. A single cut is solved in closed form, several by
    bisection of the power, to 12 decimals.

    >>> schedule(0.5, [(2, 0.5)], 4), schedule(0.625, [(1, 0.5), (2, 0.5)], 4)
    ([0.0], [0.5, 0.5])

    Raises
    ------
    InputError: ``equivalent`` is outside (0, 1], or below what the layers before the first cut keep on average.
    """
    validate_retention(equivalent)
    first = cuts[0][0]
    least = Fraction(first, layers)
    if exact(equivalent) < least:
        raise InputError(
            f"an average of {equivalent} is out of reach: the {first} of {layers} layers before the first cut keep "
            f"everything, so the smallest is {math.ceil(least * _DIGITS) / _DIGITS}"
        )
    if len(cuts) == 1:
        return [float((exact(equivalent) * layers - first) / (layers - first))]
    low, high = 0.0, 1024.0
    for _ in range(80):
        middle = (low + high) / 2
        powers = [(layer, kept**middle) for layer, kept in cuts]
        if equivalent_retention([float(kept) for kept in kept_per_layer(powers, layers)]) > equivalent:
            low = middle
        else:
            high = middle
    return [round(kept**high, 12) for _, kept in cuts]


@dataclass(frozen=True)
class SegmentShape:
    """Tokens of a temporal segment: ``static`` grid positions, counted once, and ``dynamic`` ones in each frame."""

    frames: int
    static: int
    dynamic: int

    @property
    def group_sizes(self) -> list[int]:
        """Sizes of the groups that are not empty: the static group, then one dynamic group per frame."""
        return ([self.static] if self.static else []) + ([self.dynamic] * self.frames if self.dynamic else [])

    @property
    def tokens(self) -> int:
        """Tokens left when each static position is counted once."""
        return self.static + self.frames * self.dynamic

    @property
    def all_tokens(self) -> int:
        """Tokens of the segment before reduction."""
        return self.frames * (self.static + self.dynamic)


@dataclass(frozen=True)
class GroupCount:
    """Tokens that a group keeps: ``kept`` in all; ``salient`` of them unchanged, the others as anchors of clusters."""

    kept: int
    salient: int


def exact_group_counts(total: int, segments: Sequence[SegmentShape], context_ratio: float) -> list[GroupCount]:
    """Split exactly ``total`` tokens (at most as many as there are) over the groups of all segments, in order.

    Every segment gets tokens in proportion to its length, up to its size; inside a segment all groups have the same
    ratio. Running totals are rounded, so that no group is favoured by its position.
    """
    shares = _fill([segment.all_tokens for segment in segments], [segment.tokens for segment in segments], total)
    return _split_shares(shares, segments, context_ratio)


def paper_group_counts(retention: float, segments: Sequence[SegmentShape], context_ratio: float) -> list[GroupCount]:
    """The counts of the paper's text: each segment keeps ``retention`` of its tokens, limited by its size.

    Inside a segment all groups have the same ratio, the local retention. The part that a static segment cannot keep is
    not given to others, so that less than the budget may be kept. Rounded as in `exact_group_counts`, since the paper
    states no rounding; at least one token is kept.

    >>> [group.kept for group in paper_group_counts(0.5, [SegmentShape(4, 6, 0), SegmentShape(1, 0, 6)], 0.4)]
    [6, 3]
    """
    shares = [min(exact(retention) * segment.all_tokens, Fraction(segment.tokens)) for segment in segments]
    if not round_half_up(sum(shares, Fraction(0))):
        return exact_group_counts(1, segments, context_ratio)
    return _split_shares(shares, segments, context_ratio)


def release_group_counts(retention: float, segments: Sequence[SegmentShape], context_ratio: float) -> list[GroupCount]:
    """The counts of the authors' release: rounded up in each group, in its order of float64 operations."""
    counts = []
    for segment in segments:
        ratio = retention
        if segment.frames > 1:
            ratio = min(retention / (segment.tokens / segment.all_tokens), 1.0)
        for size in segment.group_sizes:
            kept = math.ceil(size * ratio)
            counts.append(GroupCount(kept, int(kept * (1 - context_ratio))))
    return counts


def candidates(keep: int, expansion: float, n: int) -> int:
    """How many of ``n`` tokens compete for ``keep`` places: ``floor(expansion * keep)``, clamped to [keep, n]."""
    return min(max(keep, math.floor(exact(expansion) * keep)), n)


def _split_shares(
    shares: Sequence[Fraction], segments: Sequence[SegmentShape], context_ratio: float
) -> list[GroupCount]:
    """Counts of the groups, given the share of each segment."""
    kept = apportion(
        share * size / segment.tokens
        for share, segment in zip(shares, segments, strict=True)
        for size in segment.group_sizes
    )
    salient = apportion((1 - exact(context_ratio)) * k for k in kept)
    return [GroupCount(k, s) for k, s in zip(kept, salient, strict=True)]


def _fill(weights: Sequence[int] | Sequence[Fraction], caps: Sequence[int], total: int) -> list[Fraction]:
    """``min(cap, level * weight)`` for the single level at which they sum to ``total``, or to all caps if less."""
    shares = [Fraction(cap) for cap in caps]
    left, weight = Fraction(min(total, sum(caps))), sum(weights)
    for i in sorted(range(len(caps)), key=lambda i: Fraction(caps[i], weights[i])):
        shares[i] = min(shares[i], left * weights[i] / weight)
        left -= shares[i]
        weight -= weights[i]
    return shares
