"""Segmentation against brute force."""

from itertools import pairwise, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tangovlm.methods.common import segments as segment
from tangovlm.methods.common.segments import (
    segment_by_frames,
    segment_by_gain,
    segment_by_labels,
    static_positions,
    static_runs,
)


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


@pytest.mark.parametrize(
    ("labels", "sizes"),
    [
        ((0, 0, 1, 2, 3, 3, 3, 3, 3), (2, 7)),  # a gap joins the longer run
        ((1, 2, 3, 3, 3, 2, 2), (5, 2)),  # a gap at the start joins the only one
        ((0, 1, 0, 1, 0, 1, 0, 1), (8,)),  # no run at all
        ((0, 0, 1, 2, 2), (3, 2)),  # the left one of equals
        ((0, 0, 1, 0, 0), (5,)),  # runs tied for longest are both kept, and meet again
        ((0, 0, 0, 1, 1, 0, 0), (3, 4)),  # a shorter run of a cluster is a gap
        ((0, 0, 1, 2, 2, 3, 4, 4, 4), (3, 2, 4)),  # every gap by itself
        ((0,), (1,)),
    ],
)
def test_clusters_of_frames_are_made_contiguous(labels: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    assert segment_by_labels(labels) == sizes


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 3), min_size=2, max_size=14))
def test_contiguous_clusters_equal_a_version_frame_by_frame(labels: list[int]) -> None:
    sizes = segment_by_labels(labels)
    assert sum(sizes) == len(labels)
    assert min(sizes) > 1
    assert sizes == contiguous(labels)


def contiguous(labels: list[int]) -> tuple[int, ...]:
    """`segment_by_labels` on a list that is relabelled in place."""

    def run(frame: int) -> tuple[int, int]:
        first = last = frame
        while first > 0 and names[first - 1] == names[frame]:
            first -= 1
        while last + 1 < len(names) and names[last + 1] == names[frame]:
            last += 1
        return first, last + 1

    names: list[int | None] = list(labels)
    lengths = [run(t)[1] - run(t)[0] for t in range(len(names))]
    longest = {name: max(n for n, other in zip(lengths, labels, strict=True) if other == name) for name in labels}
    names = [name if n == longest[name] and n > 1 else None for name, n in zip(labels, lengths, strict=True)]
    while None in names and any(name is not None for name in names):
        start, end = run(names.index(None))
        beside = [run(t) for t in (start - 1, end) if 0 <= t < len(names)]
        first, _ = max(beside, key=lambda other: (other[1] - other[0], -other[0]))
        names[start:end] = [names[first]] * (end - start)
    sizes, t = [], 0
    while t < len(names):
        sizes.append(run(t)[1] - t)
        t += sizes[-1]
    return tuple(sizes)
