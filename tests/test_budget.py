"""Counts in exact arithmetic."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tangovlm.budget import (
    SegmentShape,
    apportion,
    candidates,
    count,
    equivalent_retention,
    exact_group_counts,
    paper_group_counts,
    pre_llm_retention,
    proportional,
    release_group_counts,
    validate_retention,
)
from tangovlm.errors import InputError
from tangovlm.machine.flops import prefill_flops

shapes = st.lists(
    st.builds(SegmentShape, st.integers(2, 6), st.integers(0, 9), st.integers(1, 9))
    | st.builds(SegmentShape, st.just(1), st.just(0), st.integers(1, 9)),
    min_size=1,
    max_size=6,
)


@pytest.mark.parametrize(
    ("retention", "n", "kept"),
    [(0.1, 6272, 627), (0.29, 100, 29), (0.145, 100, 15), (0.5, 1, 1), (0.001, 10, 1), (1, 7, 7), (1e-05, 250_000, 3)],
)
def test_count(retention: float, n: int, kept: int) -> None:
    assert count(retention, n) == kept


@pytest.mark.parametrize("bad", [0, -0.1, 1.01, float("nan"), float("inf"), True, "0.1", None, 1j, [0.1]])
def test_retention_is_a_number_above_zero_up_to_one(bad: object) -> None:
    with pytest.raises(InputError, match="retention"):
        validate_retention(bad)


def test_retention_may_come_from_anywhere() -> None:
    assert validate_retention(1) == 1.0
    assert validate_retention(np.float64(0.25)) == 0.25
    assert count(np.float64(0.1), 6272) == 627


def test_nothing_cannot_be_counted() -> None:
    with pytest.raises(InputError, match="0 tokens"):
        count(0.5, 0)


def test_running_totals_are_rounded() -> None:
    assert apportion([Fraction(1, 2)] * 4) == [1, 0, 1, 0]
    assert apportion([]) == []


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.floats(1e-3, 1e3), st.integers(1, 9)), min_size=1, max_size=8), st.data())
def test_proportional(bins: list[tuple[float, int]], data: st.DataObject) -> None:
    weights, caps = [weight for weight, _ in bins], [cap for _, cap in bins]
    total = data.draw(st.integers(0, sum(caps)))
    parts = proportional(total, weights, caps)
    assert sum(parts) == total
    assert all(0 <= part <= cap for part, cap in zip(parts, caps, strict=True))
    assert proportional(sum(caps) + 5, weights, caps) == caps


def test_proportional_passes_on_what_does_not_fit() -> None:
    assert proportional(12, [1.0, 2.0, 3.0], [12, 12, 12]) == [2, 4, 6]
    assert proportional(12, [1.0, 2.0, 3.0], [12, 12, 3]) == [3, 6, 3]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(shapes, st.data(), st.sampled_from((0.0, 0.4, 0.77, 1.0)))
def test_exact_rows(segments: list[SegmentShape], data: st.DataObject, context_ratio: float) -> None:
    held = sum(segment.tokens for segment in segments)
    total = data.draw(st.integers(1, held + 3))
    rows = exact_group_counts(total, segments, context_ratio)
    sizes = [size for segment in segments for size in segment.group_sizes]
    assert sum(row.kept for row in rows) == min(total, held)
    assert all(0 <= row.salient <= row.kept <= size for row, size in zip(rows, sizes, strict=True))
    assert abs(sum(row.salient for row in rows) - (1 - context_ratio) * min(total, held)) <= 0.5 + 1e-9


def test_no_frame_is_favoured() -> None:
    rows = exact_group_counts(5, [SegmentShape(1, 0, 4)] * 10, 0.4)
    assert [row.kept for row in rows] == [1, 0] * 5


def test_full_segments_pass_on_what_they_cannot_hold() -> None:
    # The second segment holds 4 + 2 * 1 of its 10 tokens, less than half of the 14.
    rows = exact_group_counts(14, [SegmentShape(1, 0, 10), SegmentShape(2, 4, 1)], 0.0)
    assert [row.kept for row in rows] == [8, 4, 1, 1]


@pytest.mark.parametrize(
    ("retention", "shape", "kept", "salient"),
    [
        (0.1, SegmentShape(1, 0, 196), [20], [12]),
        (0.1, SegmentShape(3, 0, 180), [18, 18, 18], [10, 10, 10]),
        (0.1, SegmentShape(4, 196, 0), [79], [47]),
        (0.5, SegmentShape(6, 144, 0), [144], [86]),
        (0.001, SegmentShape(2, 2, 1), [1, 1, 1], [0, 0, 0]),
        (5e-324, SegmentShape(2, 2, 1), [1, 1, 1], [0, 0, 0]),
    ],
)
def test_release_rows(retention: float, shape: SegmentShape, kept: list[int], salient: list[int]) -> None:
    rows = release_group_counts(retention, [shape], 0.4)
    assert [row.kept for row in rows] == kept
    assert [row.salient for row in rows] == salient


def test_candidates() -> None:
    assert [candidates(k, 1.5, 100) for k in (0, 1, 2, 12)] == [0, 1, 3, 18]
    assert candidates(20, 1.15, 100) == 23
    assert candidates(12, 1.5, 13) == 13


def test_equivalent_retention() -> None:
    assert equivalent_retention([0.2] * 14 + [0.1] * 14) == pytest.approx(0.15)
    before = pre_llm_retention(0.1, after_layer=18, keep=0.5, layers=28)
    assert before == pytest.approx(0.1 * 28 / 23)
    assert equivalent_retention([before] * 18 + [before / 2] * 10) == pytest.approx(0.1)
    for call in (
        lambda: equivalent_retention([]),
        lambda: equivalent_retention([1.2]),
        lambda: pre_llm_retention(0.9, after_layer=2, keep=0.1, layers=28),
        lambda: pre_llm_retention(0.1, after_layer=29, keep=0.5, layers=28),
    ):
        with pytest.raises(InputError):
            call()


def test_prefill_flops() -> None:
    assert prefill_flops([10, 5], hidden=4, intermediate=8) == sum(4 * n * 16 + 2 * n * n * 4 + 96 * n for n in (10, 5))
    grouped = {"hidden": 8, "intermediate": 2, "heads": 4}
    assert prefill_flops([3], **grouped, kv_heads=1) == 2 * 3 * 8 * (8 + 2) + 2 * 9 * 8 + 3 * 3 * 8 * 2
    assert prefill_flops([3], **grouped, kv_heads=4) == prefill_flops([3], **grouped)
    for wrong in ({"hidden": 0}, {"kv_heads": 3}, {"heads": 3}, {"kv_heads": 0}):
        with pytest.raises(InputError):
            prefill_flops([1], **grouped | wrong)
    with pytest.raises(InputError):
        prefill_flops([-1], hidden=4, intermediate=8)


def test_attention_costs_as_much_as_all_else_at_32_500_tokens_of_qwen2_7b() -> None:
    width = {"hidden": 3584, "intermediate": 18944, "heads": 28, "kv_heads": 4}
    attention = 2 * 3584
    assert round((prefill_flops([1], **width) - attention) / attention, -2) == 32_500


def test_paper_rows() -> None:
    # A segment of four frames that hardly changes holds 9 tokens, less than half of its 24, and gives none away.
    still, busy = SegmentShape(4, 5, 1), SegmentShape(2, 0, 6)
    assert sum(row.kept for row in paper_group_counts(0.5, [still, busy], 0.4)) == 9 + 6
    assert sum(row.kept for row in exact_group_counts(18, [still, busy], 0.4)) == 18
    assert [row.kept for row in paper_group_counts(0.01, [busy], 0.4)] == [1, 0]
