"""Groups of tokens, salient selection and merging, each by itself."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tangovlm import VideoTokens
from tangovlm.budget import SegmentShape
from tangovlm.methods.common.groups import GroupedSelectionBuilder, group_tokens
from tangovlm.methods.common.merge import blend
from tangovlm.methods.common.select_and_merge import select_diverse
from tangovlm.methods.common.selection import top_indices


def test_groups_of_a_segment_with_static_positions() -> None:
    groups = group_tokens(torch.tensor([[False, False, False], [True, False, True]]), (1, 2))
    assert groups.shapes == (SegmentShape(1, 0, 3), SegmentShape(2, 2, 1))
    assert groups.grid_indices.tolist() == [0, 1, 2, 3, 5, 4, 7]
    assert groups.static_entries.tolist() == [3, 4]
    assert groups.entry_of_token.tolist() == [0, 1, 2, 3, 5, 4, 3, 6, 4]
    assert groups.sizes == [3, 2, 1, 1]
    assert groups.starts == [0, 3, 5, 6]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 6), st.integers(0, 2**31))
def test_every_token_belongs_to_an_entry_at_its_position(segments: list[int], length: int, seed: int) -> None:
    static = torch.rand(len(segments), length, generator=torch.Generator().manual_seed(seed)) < 0.5
    static[torch.tensor(segments) == 1] = False
    groups = group_tokens(static, tuple(segments))
    assert sum(groups.sizes) == len(groups.grid_indices) == sum(shape.tokens for shape in groups.shapes)
    first, tokens = 0, 0
    for mask, frames in zip(static, segments, strict=True):
        for t in range(first, first + frames):
            for p in range(length):
                expected = (first if mask[p] else t) * length + p
                assert int(groups.grid_indices[groups.entry_of_token[tokens]]) == expected
                tokens += 1
        first += frames
    assert bool(
        (
            groups.grid_indices[groups.static_entries] % length
            == torch.cat([mask.nonzero().flatten() for mask in static])
        ).all()
    )


def test_top_indices_take_the_first_of_equals() -> None:
    assert top_indices(torch.tensor([[0.5, 0.9, 0.5, 0.1]]), 2).tolist() == [[1, 0]]


def test_selection_spreads_over_what_tokens_show() -> None:
    # Two looks: one seen by the three most salient tokens, another by the fourth.
    looks = torch.tensor([[1.0, 0.0], [1.0, 0.01], [1.0, 0.02], [0.0, 1.0], [0.5, 0.5]])
    saliency = torch.tensor([[0.7, 0.9, 0.8, 0.6, 0.1]])

    def chosen(candidates: int, keep: int) -> list[int]:
        shortlist = top_indices(saliency, candidates)[0]
        return sorted(select_diverse(lambda some: looks[some], shortlist, [candidates], [keep], 2).tolist())

    assert chosen(4, 2) == [1, 3]
    assert chosen(2, 2) == [1, 2]
    assert chosen(5, 5) == [0, 1, 2, 3, 4]


def test_each_group_is_selected_from_separately() -> None:
    looks = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]).repeat(2, 1)
    shortlist = torch.tensor([1, 0, 2, 5, 4, 3])
    assert select_diverse(lambda some: looks[some], shortlist, [3, 3], [2, 1], 1).tolist() == [1, 2, 5]


def test_blend() -> None:
    values = torch.tensor([[[0.0], [2.0], [10.0], [4.0]]])
    anchors, labels = torch.tensor([[1, 2]]), torch.tensor([[0, 0, 1, 0]])
    assert blend(values, anchors, labels, 1.0).flatten().tolist() == [2.0, 10.0]
    assert blend(values, anchors, labels, 0.0).flatten().tolist() == [2.0, 10.0]
    values[0, 0] = 6.0
    torch.testing.assert_close(blend(values, anchors, labels, 0.6).flatten(), torch.tensor([2.8, 10.0]))


def test_equal_values_merge_into_the_same_bits() -> None:
    value = torch.full((1, 7, 3), 0.1)
    merged = blend(value, torch.tensor([[2]]), torch.zeros(1, 7, dtype=torch.int64), 0.6)
    assert torch.equal(merged, value[:, :1])


def test_a_cluster_of_one_is_copied_bit_for_bit() -> None:
    value = torch.full((2, 1, 1), -0.0)
    assert bool(blend(value, torch.tensor([[0], [0]]), torch.zeros(2, 1, dtype=torch.int64), 0.6).signbit().all())


def static_position(values: list[float], dtype: torch.dtype, extra: int) -> GroupedSelectionBuilder:
    """One position over three frames, static, with rising saliency."""
    features = torch.tensor(values, dtype=dtype).view(3, 1, 1, 1).expand(-1, -1, -1, 3)
    groups = group_tokens(torch.tensor([[True]]), (3,))
    return GroupedSelectionBuilder(VideoTokens(features), torch.tensor([0.2, 0.4, 0.6]), groups, extra)


def test_static_positions_are_averaged_over_time() -> None:
    builder = static_position([1.0, 3.0, 100.0], torch.float16, 0)
    torch.testing.assert_close(builder.static_means, torch.full((1, 3), 104 / 3))
    torch.testing.assert_close(builder.saliency, torch.tensor([0.4]))


def test_extra_tokens_are_not_in_the_mean() -> None:
    assert static_position([1.0, 3.0, 100.0], torch.float16, 1).static_means.tolist() == [[2.0] * 3]
    assert static_position([1.0, 3.0, 100.0], torch.float16, 2).static_means.tolist() == [[1.0] * 3]


def test_equal_static_tokens_keep_their_bits() -> None:
    assert torch.equal(static_position([0.1] * 3, torch.float32, 0).static_means, torch.full((1, 3), 0.1))
    assert bool(static_position([-0.0] * 3, torch.float32, 0).static_means.signbit().all())
