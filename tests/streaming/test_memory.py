"""The budget of what is held, for any stream of segments."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tangovlm.errors import InputError
from tangovlm.streaming.memory import Memory
from tangovlm.streaming.segment import Segment
from tests.streaming.test_segment import segment

SIZES = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=6)


def stream_of(sizes: list[list[int]], seed: int = 0) -> list[list[Segment]]:
    """Chunks of segments of random features with so many tokens each."""
    generator, start, chunks = torch.Generator().manual_seed(seed), 0, list[list[Segment]]()
    for chunk in sizes:
        chunks.append([])
        for count in chunk:
            chunks[-1].append(segment(torch.randn(count, 5, generator=generator), start))
            start += count
    return chunks


@given(sizes=SIZES, budget=st.integers(1, 12), half_life=st.sampled_from([None, 3.0]), seed=st.integers(0, 99))
def test_never_more_than_the_budget(sizes: list[list[int]], budget: int, half_life: float | None, seed: int) -> None:
    memory, total = Memory(budget, half_life), 0
    for chunk in stream_of(sizes, seed):
        memory.add(chunk)
        total += sum(map(len, chunk))
        held = memory.segments
        assert memory.tokens == min(total, budget)
        # Frames stay in order, without gaps, and each input token is counted once.
        assert [each.start for each in held] == [0, *(each.stop for each in held[:-1])]
        assert held[-1].stop == total == sum(int(each.counts.sum()) for each in held)
        assert sum(each.seen for each in held) == total
        frames = torch.cat([each.frames for each in held])
        assert bool((frames.diff() > 0).all())
        # The first token of all is never given up: there is none earlier that could stand for it.
        assert int(frames[0]) == 0


def by_search(held: list[Segment], budget: int, half_life: float | None) -> list[Segment]:
    """What is held in the end, if all reductions are compared before each one."""
    now = held[-1].end_s
    while (excess := sum(map(len, held)) - budget) > 0:
        best: tuple[float, int, int, Segment] | None = None
        for place, one in enumerate(held):
            for joins, whole in enumerate([one, *(one.joined(later) for later in held[place + 1 : place + 2])]):
                if len(whole) > 1:
                    loss = whole.spare.loss * (1.0 if half_life is None else 0.5 ** ((now - whole.end_s) / half_life))
                    if best is None or loss < best[0]:
                        best = loss, place, joins, whole
        assert best is not None
        _, place, joins, whole = best
        held = [*held[:place], whole.without(min(len(whole.spare.tokens), excess)), *held[place + 1 + joins :]]
    return held


@given(sizes=SIZES, budget=st.integers(1, 12), half_life=st.sampled_from([None, 3.0]), seed=st.integers(0, 99))
def test_the_least_loss_comes_first(sizes: list[list[int]], budget: int, half_life: float | None, seed: int) -> None:
    memory, expected = Memory(budget, half_life), list[Segment]()
    for chunk in stream_of(sizes, seed):
        memory.add(chunk)
        expected = by_search([*expected, *chunk], budget, half_life)
        for one, other in zip(memory.segments, expected, strict=True):
            assert one.frames.tolist() == other.frames.tolist() and one.counts.tolist() == other.counts.tolist()


@given(sizes=SIZES, budget=st.integers(1, 12), seed=st.integers(0, 99))
def test_a_preview_is_what_would_be_held_and_changes_nothing(sizes: list[list[int]], budget: int, seed: int) -> None:
    memory = Memory(budget)
    for chunk in stream_of(sizes, seed):
        before = list(memory.segments)
        preview = memory.preview(chunk)
        assert memory.segments == before
        memory.add(chunk)
        assert [each.frames.tolist() for each in preview] == [each.frames.tolist() for each in memory.segments]


def test_below_the_budget_nothing_changes() -> None:
    memory = Memory(40)
    chunks = stream_of([[3, 4], [5]])
    for chunk in chunks:
        memory.add(chunk)
    assert memory.segments == [each for chunk in chunks for each in chunk]


def test_a_still_part_is_reduced_and_a_busy_one_is_not() -> None:
    busy, still = segment(torch.eye(8)), segment(torch.ones(8, 8), start=8)
    memory = Memory(9)
    memory.add([busy, still])
    assert torch.cat([each.frames for each in memory.segments]).tolist() == list(range(9))


def test_parts_that_repeat_each_other_are_joined() -> None:
    memory = Memory(8)
    memory.add([segment(torch.eye(8))])
    memory.add([segment(torch.eye(8), start=8)])
    (held,) = memory.segments
    assert held.frames.tolist() == list(range(8)) and held.counts.tolist() == [2] * 8


def test_with_a_half_life_old_parts_are_reduced_first() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [segment(torch.randn(16, 64, generator=generator), start) for start in range(0, 64, 16)]
    uniform, fading = Memory(32), Memory(32, half_life_s=4)
    uniform.add(parts)
    fading.add(parts)
    held = [int((torch.cat([s.frames for s in m.segments]) >= 32).sum()) for m in (uniform, fading)]
    assert held[0] < 24 < held[1]


@pytest.mark.parametrize("count", [0, -1, True, 1.5, "many", None])
def test_budgets_that_are_none(count: object) -> None:
    with pytest.raises(InputError, match="^max_tokens is .* give a whole number of at least 1"):
        Memory(count)  # type: ignore[arg-type]


@pytest.mark.parametrize("seconds", [0, -1, True, float("nan"), float("inf"), "long"])
def test_half_lives_that_are_none(seconds: object) -> None:
    with pytest.raises(InputError, match="^half_life_s is .* give seconds above 0"):
        Memory(10, seconds)  # type: ignore[arg-type]
