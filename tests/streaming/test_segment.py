"""What is given up of a segment, by plain loops; and segments of a selection."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tangovlm import Milonga, VideoTokens
from tangovlm.streaming.segment import Segment, SpareTokens, segments_of
from tangovlm.tokens import Selection


def segment(features: Tensor, start: int = 0) -> Segment:
    count = len(features)
    return Segment(
        features=features,
        frames=start + torch.arange(count),
        counts=torch.ones(count, dtype=torch.int64),
        start=start,
        stop=start + count,
        start_s=float(start),
        end_s=float(start + count - 1),
        seen=count,
    )


def by_loops(features: Tensor, number: int) -> tuple[list[int], list[int], list[float]]:
    """The tokens given up, those that stand for them, and the distances between both."""
    unit = (features / features.norm(dim=1, keepdim=True)).double()
    stays, gone, into, losses = list(range(len(features))), list[int](), list[int](), list[float]()
    for _ in range(number):
        best: tuple[float, int, int] | None = None
        for later in stays:
            for earlier in (each for each in stays if each < later):
                distance = 1 - float(unit[later] @ unit[earlier])
                if best is None or distance < best[0] - 1e-9:
                    best = distance, later, earlier
        assert best is not None
        stays.remove(best[1])
        losses.append(best[0])
        gone.append(best[1])
        into.append(best[2])
    return gone, into, losses


@given(seed=st.integers(0, 10_000), count=st.integers(2, 12))
def test_tokens_that_are_given_up(seed: int, count: int) -> None:
    features = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    number = max(1, count // 2)
    found = SpareTokens.of(features, number)
    gone, into, losses = by_loops(features, number)
    assert (found.tokens, found.into) == (gone, into)
    assert abs(found.loss - sum(losses) / number) < 1e-5


def test_what_repeats_goes_first_and_is_counted() -> None:
    axes = torch.eye(4)
    held = segment(torch.stack([axes[0], axes[1], axes[0], axes[2], axes[1], axes[0], axes[3], axes[0]]))
    assert held.spare.tokens == [2, 4] and held.spare.into == [0, 1]
    smaller = held.without(2)
    assert smaller.frames.tolist() == [0, 1, 3, 5, 6, 7] and smaller.counts.tolist() == [2, 2, 1, 1, 1, 1]
    assert torch.equal(smaller.features, held.features[[0, 1, 3, 5, 6, 7]])
    assert (smaller.start, smaller.stop, smaller.seen) == (0, 8, 8)
    smallest = smaller.without(2)
    assert smallest.frames.tolist() == [0, 1, 3, 6] and smallest.counts.tolist() == [4, 2, 1, 1]


def test_a_single_token_is_not_given_up() -> None:
    assert segment(torch.ones(1, 3)).spare == SpareTokens([], [], 0.0)


def test_joined_segments_have_all_tokens() -> None:
    both = segment(torch.eye(3)).joined(segment(torch.eye(3), start=3))
    assert both.frames.tolist() == list(range(6)) and (both.start, both.stop, both.seen) == (0, 6, 6)
    assert (both.start_s, both.end_s) == (0.0, 5.0)


@given(seed=st.integers(0, 10_000), frames=st.integers(1, 9), retention=st.sampled_from([0.03, 0.1, 0.5]))
def test_segments_hold_the_tokens_of_a_selection(seed: int, frames: int, retention: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    tokens = VideoTokens(torch.randn(frames, 2, 3, 8, generator=generator), timestamps=10.0 + torch.arange(frames))
    selection = Milonga(retention=retention)(tokens)
    assert tokens.timestamps is not None
    found = segments_of(tokens, selection, 100, tokens.timestamps)
    assert torch.equal(torch.cat([each.features for each in found]), selection.features)
    assert torch.equal(torch.cat([each.frames for each in found]), 100 + selection.indices // 6)
    assert sum(int(each.counts.sum()) for each in found) == int((selection.sources >= 0).sum())
    assert [each.start for each in found] == [100, *(each.stop for each in found[:-1])]
    assert found[-1].stop == 100 + frames and sum(each.seen for each in found) == 6 * frames
    assert found[0].start_s == 10.0 and found[-1].end_s == 9.0 + frames


def test_frames_without_tokens_belong_to_the_next_segment_or_the_last() -> None:
    tokens = VideoTokens(torch.randn(4, 1, 2, 3), timestamps=torch.arange(4.0))
    indices = torch.tensor([2, 3])
    sources = torch.tensor([-1, -1, 0, 1, -1, -1, -1, -1]).view(4, 1, 2)
    selection = Selection(indices, tokens.features.flatten(0, 2)[indices], sources, (1, 1, 1, 1))
    assert tokens.timestamps is not None
    (found,) = segments_of(tokens, selection, 0, tokens.timestamps)
    assert (found.start, found.stop, found.seen, found.end_s) == (0, 4, 8, 3.0)
