"""The only place where a ratio becomes a count, and Eq. 1 of the Tango paper, the equivalent retention."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from numbers import Real

from .errors import InputError

# Bounds in messages have four digits, rounded to the side on which they are accepted.
_DIGITS = 10**4


def validate_retention(retention: object) -> float:
    """Return the kept fraction as a float.

    Raises
    ------
    InputError: not a real number, NaN, or outside (0, 1].
    """
    if isinstance(retention, bool) or not isinstance(retention, Real) or not 0 < retention <= 1:  # type: ignore[operator]
        raise InputError(f"retention must be a number in (0, 1], the fraction of tokens to keep, not {retention!r}")
    return float(retention)


def exact(ratio: float) -> Fraction:
    """The decimal fraction that a float stands for: 0.1 is 1/10, not the nearest binary number."""
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
    """Integers that follow exact ``shares`` so that every running total is the rounded running total of the shares.

    No share is favoured by its place, and the sum is the rounded sum.

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
    """Split ``total`` in proportion to ``weights`` above 0, with at most ``caps[i]`` for each; see `apportion`.

    What a full one cannot take goes to the others in proportion. The sum is ``total``, or all caps if that is less.

    >>> proportional(10, [1, 1, 8], [9, 9, 4])
    [3, 3, 4]
    """
    return apportion(_fill([Fraction(weight) for weight in weights], caps, total))


def equivalent_retention(per_layer: Sequence[float]) -> float:
    """Mean kept fraction over the layers of the language model (Tango paper, Eq. 1).

    Raises
    ------
    InputError: no layers, or a fraction outside [0, 1].
    """
    if not per_layer or not all(0 <= ratio <= 1 for ratio in per_layer):
        raise InputError(f"per_layer must hold one kept fraction in [0, 1] a layer, not {list(per_layer)!r}")
    return float(sum(exact(ratio) for ratio in per_layer) / len(per_layer))


def kept_per_layer(cuts: Sequence[tuple[int, float]], layers: int) -> list[Fraction]:
    """Kept fraction in each of ``layers`` layers, where ``(layer, kept)`` says what is kept from that layer on.

    >>> [float(kept) for kept in kept_per_layer([(1, 0.5), (3, 0.25)], 4)]
    [1.0, 0.5, 0.5, 0.25]

    Raises
    ------
    InputError: layers that do not ascend within 0..layers, or a fraction outside [0, 1].
    """
    places = [0, *(layer for layer, _ in cuts), layers]
    if layers < 1 or any(after < before for before, after in pairwise(places)):
        raise InputError(f"layers must ascend within 0..{layers}, not {places[1:-1]}")
    if not all(0 <= kept <= 1 for _, kept in cuts):
        raise InputError(f"a kept fraction is in [0, 1], not {[kept for _, kept in cuts]}")
    fractions = [Fraction(1), *(exact(kept) for _, kept in cuts)]
    return [kept for kept, (start, end) in zip(fractions, pairwise(places), strict=True) for _ in range(start, end)]


def before_llm(equivalent: float, per_layer: Sequence[Fraction]) -> float:
    """Fraction to keep before the language model whose layers keep ``per_layer`` of that (Eq. 1 solved for the first).

    Raises
    ------
    InputError: ``equivalent`` is outside (0, 1], or more than is left when everything is kept before the model.
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
    """Fraction to keep before the LLM so that keeping ``keep`` of that after ``after_layer`` layers averages out.

    >>> round(pre_llm_retention(0.1, after_layer=18, keep=0.5, layers=28), 5)
    0.12174

    Raises
    ------
    InputError: see `kept_per_layer` and `before_llm`.
    """
    return before_llm(equivalent, kept_per_layer([(after_layer, validate_retention(keep))], layers))


def schedule(equivalent: float, cuts: Sequence[tuple[int, float]], layers: int) -> list[float]:
    """Fractions to keep from each cut's layer on so that Eq. 1 gives ``equivalent``; one power of the fractions given.

    A single cut has a solution in closed form; several are found by bisection of the power, to 12 digits.

    >>> schedule(0.5, [(2, 0.5)], 4), schedule(0.625, [(1, 0.5), (2, 0.5)], 4)
    ([0.0], [0.5, 0.5])

    Raises
    ------
    InputError: ``equivalent`` is outside (0, 1], or less than what the layers before the first cut hold.
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
    def rows(self) -> list[int]:
        """Tokens of each row that has any: the static row, then one dynamic row a frame."""
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
class RowCount:
    """Of one row: ``kept`` tokens, of which ``salient`` keep their own value and the others anchor a cluster."""

    kept: int
    salient: int


def exact_rows(total: int, segments: Sequence[SegmentShape], context_ratio: float) -> list[RowCount]:
    """Spread exactly ``total`` tokens (at most what the rows hold) over the rows of all segments, in order.

    Every segment gets tokens in proportion to its length, up to what it holds; inside a segment all rows have the same
    ratio. Counts follow rounded running totals, so that no row is favoured by its place.
    """
    shares = _fill([segment.all_tokens for segment in segments], [segment.tokens for segment in segments], total)
    return _split_shares(shares, segments, context_ratio)


def _split_shares(shares: Sequence[Fraction], segments: Sequence[SegmentShape], context_ratio: float) -> list[RowCount]:
    """Counts of the rows of segments that have these shares."""
    kept = apportion(
        share * size / segment.tokens for share, segment in zip(shares, segments, strict=True) for size in segment.rows
    )
    salient = apportion((1 - exact(context_ratio)) * k for k in kept)
    return [RowCount(k, s) for k, s in zip(kept, salient, strict=True)]


def _fill(weights: Sequence[int] | Sequence[Fraction], caps: Sequence[int], total: int) -> list[Fraction]:
    """``min(cap, level * weight)`` with the one level at which they sum to ``total`` (or to all caps)."""
    shares = [Fraction(cap) for cap in caps]
    left, weight = Fraction(min(total, sum(caps))), sum(weights)
    for i in sorted(range(len(caps)), key=lambda i: Fraction(caps[i], weights[i])):
        shares[i] = min(shares[i], left * weights[i] / weight)
        left -= shares[i]
        weight -= weights[i]
    return shares


def paper_rows(retention: float, segments: Sequence[SegmentShape], context_ratio: float) -> list[RowCount]:
    """The counts of the paper's text: each segment keeps ``retention`` of its tokens, at most what it holds.

    Inside a segment all rows have the same ratio, its local retention. What a still segment cannot keep is not given to
    others, so that less than the budget may be kept. Rounded as in `exact_rows`, since the paper states no rounding; at
    least one token is kept.

    >>> [row.kept for row in paper_rows(0.5, [SegmentShape(4, 6, 0), SegmentShape(1, 0, 6)], 0.4)]
    [6, 3]
    """
    shares = [min(exact(retention) * segment.all_tokens, Fraction(segment.tokens)) for segment in segments]
    if not round_half_up(sum(shares, Fraction(0))):
        return exact_rows(1, segments, context_ratio)
    return _split_shares(shares, segments, context_ratio)


def release_rows(retention: float, segments: Sequence[SegmentShape], context_ratio: float) -> list[RowCount]:
    """The counts of the authors' release: ceilings a row, in its own order of float64 operations."""
    rows = []
    for segment in segments:
        ratio = retention
        if segment.frames > 1:
            ratio = min(retention / (segment.tokens / segment.all_tokens), 1.0)
        for size in segment.rows:
            kept = math.ceil(size * ratio)
            rows.append(RowCount(kept, int(kept * (1 - context_ratio))))
    return rows


def candidates(keep: int, expansion: float, n: int) -> int:
    """How many of ``n`` tokens compete for ``keep`` places: ``floor(expansion * keep)``, at least keep, at most n."""
    return min(max(keep, math.floor(exact(expansion) * keep)), n)
