"""Tags survive the operations of models on features and are removed again; nothing else is taken for a tag."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tangovlm.errors import InputError
from tangovlm.session import splice
from tangovlm.session.cache_state import CacheState, LayerPositions
from tangovlm.tokens import Selection


def selection(grid: tuple[int, int, int], kept: list[int], dim: int) -> Selection:
    sources = torch.full((grid[0] * grid[1] * grid[2],), -1)
    sources[kept] = torch.arange(len(kept))
    features = torch.randn(len(kept), dim)
    return Selection(torch.tensor(kept), features, sources.view(grid), (grid[0],))


def tag(rows: torch.Tensor, chosen: Selection) -> torch.Tensor:
    """Tag features as a family does whose grid comes first."""
    kept = torch.arange(len(rows)) >= chosen.sources.numel()
    kept[chosen.indices] = True
    return splice.tag_dropped(rows, kept, chosen.indices, chosen.features)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tags_survive_scattering_and_casts(dtype: torch.dtype) -> None:
    rows = torch.randn(9, 4)
    chosen = selection((2, 2, 2), [1, 6], 4)
    tagged = tag(rows, chosen)
    assert torch.equal(tagged[8], rows[8])
    assert torch.equal(tagged[[1, 6]], chosen.features)
    embeds = torch.randn(1, 12, 4)
    mask = torch.zeros(1, 12, 1, dtype=torch.bool)
    mask[0, 2:11] = True
    scattered = embeds.to(dtype).masked_scatter(mask, tagged.to(dtype))
    found = splice.find_tagged(scattered)
    assert found is not None
    assert found[0].nonzero().flatten().tolist() == [2 + place for place in (0, 2, 3, 4, 5, 7)]


def test_without_dropped_tokens_features_are_copied_exactly() -> None:
    rows = torch.randn(5, 4)
    chosen = Selection(torch.arange(4), rows[:4], torch.arange(4).view(1, 2, 2), (1,))
    tagged = tag(rows, chosen)
    assert torch.equal(tagged, rows)
    assert tagged.data_ptr() != rows.data_ptr()
    assert splice.find_tagged(tagged[None]) is None


@pytest.mark.parametrize("place", [(0, 2, 0), (0, 2, 3)])
def test_other_nan_raises(place: tuple[int, int, int]) -> None:
    embeds = torch.randn(1, 4, 5)
    embeds[place] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        splice.find_tagged(embeds)
    embeds[0, 2] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        splice.find_tagged(embeds)


@settings(max_examples=60)
@given(data=st.data(), batch=st.integers(1, 4), width=st.integers(1, 9))
def test_packing_keeps_order_and_pads_left(data: st.DataObject, batch: int, width: int) -> None:
    rows = [data.draw(st.lists(st.booleans(), min_size=width, max_size=width)) for _ in range(batch)]
    index, valid = splice.pack_left_padded(torch.tensor(rows))
    longest = max(1, max(sum(row) for row in rows))
    for row, places, good in zip(rows, index, valid, strict=True):
        wanted = [place for place, keep in enumerate(row) if keep]
        assert places.shape == (longest,)
        assert places[good].tolist() == wanted
        assert good.tolist() == [False] * (longest - len(wanted)) + [True] * len(wanted)


def test_position_ids_count_valid_positions() -> None:
    mask = torch.tensor([[False, False, True, True, True], [True, True, True, True, True]])
    assert LayerPositions(mask, True).last_position_ids(5).tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 4]]
    assert LayerPositions(mask, True).last_position_ids(2).tolist() == [[1, 2], [3, 4]]


def facts(state: CacheState) -> tuple[int, int, int, int]:
    """Length of the first layer, length of the unpruned sequence, dropped tokens, next position id."""
    assert state.unpruned is not None and state.unpruned.next_id is not None
    return (
        state.first.length,
        state.unpruned.length,
        int(state.unpruned.dropped.item()),
        int(state.unpruned.next_id.item()),
    )


def test_state_is_cropped_with_the_cache() -> None:
    """A prompt of 3 words, 6 visual tokens of which 2 are kept, 2 words, and 3 words of an answer."""
    tagged = torch.tensor([[False] * 3 + [True, False, True, True, False, True] + [False] * 2])
    prompt = splice.remove_dropped(torch.randn(1, 11, 4), None, 0, None, tagged, mrope=True).state
    state = splice.remove_dropped(torch.randn(1, 3, 4), None, 7, prompt, None, mrope=True).state
    assert facts(state) == (10, 14, 4, 14)
    assert state.crop(10) is state
    for length, unpruned, dropped in ((9, 13, 4), (7, 11, 4), (6, 10, 4), (5, 8, 3), (4, 5, 1), (3, 3, 0), (0, 0, 0)):
        cut = state.crop(length)
        assert facts(cut) == (length, unpruned, dropped, unpruned)
        assert facts(cut.crop(min(length, 3)))[1] == min(unpruned, 3)
