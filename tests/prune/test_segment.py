"""Segmentation against brute force."""

from itertools import pairwise, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tangovlm.prune import segment
from tangovlm.prune.rows import static_positions
from tangovlm.prune.segment import segment_by_frames, segment_by_gain, static_runs


@st.composite
def static_tables(draw: st.DrawFn) -> Tensor:
    pairs, positions = draw(st.integers(0, 8)), draw(st.integers(1, 5))
    share = draw(st.sampled_from((0.0, 0.3, 0.7, 0.95, 1.0)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    return torch.rand(pairs, positions, generator=generator) < share


def total_gain(static: Tensor, sizes: tuple[int, ...]) -> int:
    total, first = 0, 0
    for size in sizes:
        total += (size - 1) * int(static[first : first + size - 1].all(0).sum()) if size > 1 else 0
        first += size
    return total


def all_segmentations(frames: int) -> list[tuple[int, ...]]:
    cuts = product((False, True), repeat=frames - 1)
    bounds = ([0, *(t + 1 for t, cut in enumerate(choice) if cut), frames] for choice in cuts)
    return [tuple(b - a for a, b in pairwise(bound)) for bound in bounds]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(static_tables())
def test_gain_is_the_best_of_all_segmentations(static: Tensor) -> None:
    sizes = segment_by_gain(static)
    assert sum(sizes) == len(static) + 1
    assert total_gain(static, sizes) == max(total_gain(static, other) for other in all_segmentations(len(static) + 1))
    assert all(total_gain(static[sum(sizes[:i]) :], sizes[i : i + 1]) for i, size in enumerate(sizes) if size > 1)


def test_ties_favour_single_frames_then_short_windows() -> None:
    # Frames 1-2 or 2-3 could be joined for the same gain; the last frame stays alone.
    assert segment_by_gain(torch.tensor([[True, False], [False, True]])) == (2, 1)
    assert segment_by_gain(torch.zeros(3, 4, dtype=torch.bool)) == (1, 1, 1, 1)
    assert segment_by_gain(torch.ones(3, 4, dtype=torch.bool)) == (4,)
    assert segment_by_gain(torch.zeros(0, 4, dtype=torch.bool)) == (1,)


def test_windows_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "WINDOW_CAP", 4)
    sizes = segment_by_gain(torch.ones(10, 3, dtype=torch.bool))
    assert sum(sizes) == 11
    assert max(sizes) == 4
    assert sorted(sizes) == [3, 4, 4]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(static_tables())
def test_runs(static: Tensor) -> None:
    expected = torch.zeros(static.shape, dtype=torch.int64)
    for t, row in enumerate(static):
        for p, same in enumerate(row):
            expected[t, p] = (expected[t - 1, p] if t else 0) + 1 if same else 0
    assert torch.equal(static_runs(static), expected)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(static_tables(), st.data())
def test_static_positions(static: Tensor, data: st.DataObject) -> None:
    sizes = data.draw(st.sampled_from(all_segmentations(len(static) + 1)))
    first = 0
    for mask, size in zip(static_positions(static, sizes), sizes, strict=True):
        expected = static[first : first + size - 1].all(0) if size > 1 else torch.zeros_like(mask)
        assert torch.equal(mask, expected)
        first += size


def test_frames_are_cut_below_the_threshold_and_at_the_lowest() -> None:
    similarity = torch.tensor([0.99, 0.2, 0.95, 0.5, 0.95])
    assert segment_by_frames(similarity, 0.6, cuts=0) == (2, 2, 2)
    assert segment_by_frames(similarity, 0.1, cuts=1) == (2, 4)
    assert segment_by_frames(similarity, 0.1, cuts=3) == (2, 1, 1, 2)
    assert segment_by_frames(similarity, 0.1) == (1,) * 6
    assert segment_by_frames(torch.zeros(0), 0.5) == (1,)
    assert segment_by_frames(torch.zeros(3), 0.5) == (1, 1, 1, 1)
