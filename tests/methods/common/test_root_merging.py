"""Removing the later token of the most similar pair, against a plain version on a full matrix."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tangovlm.methods.common import root_merging
from tangovlm.methods.common.root_merging import most_distinct
from tangovlm.methods.common.similarity import normalize


def plain(unit: torch.Tensor, keep: int) -> tuple[list[int], list[list[int]]]:
    similarity = unit @ unit.T
    left, pairs = list(range(len(unit))), []
    while len(left) > keep:
        earlier, later = min(((i, j) for i in left for j in left if i < j), key=lambda p: (-float(similarity[p]), p))
        left.remove(later)
        pairs.append([earlier, later])
    return left, pairs


@pytest.mark.parametrize("stored", [1, 2, 16])
@pytest.mark.parametrize("tile", [1, 40, 1 << 21])
def test_equals_the_plain_version(stored: int, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(root_merging, "_STORED", stored)
    monkeypatch.setattr(root_merging, "_TILE_ELEMENTS", (tile, tile))

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(st.integers(1, 24), st.integers(1, 6), st.booleans(), st.integers(0, 2**31), st.data())
    def check(n: int, dim: int, ties: bool, seed: int, data: st.DataObject) -> None:
        generator = torch.Generator().manual_seed(seed)
        # Products of one-hot vectors are exact, so that ties are ties.
        points = torch.eye(dim)[torch.randint(0, dim, (n,), generator=generator)]
        if not ties:
            points = torch.randn(n, dim, generator=generator)
        unit = normalize(points.double())
        keep = data.draw(st.integers(1, n))
        found, (left, pairs) = most_distinct(unit, keep), plain(unit, keep)
        if ties or dim > 1:
            assert found.kept.tolist() == left
            assert found.pairs.tolist() == pairs
        assert len(found.kept) == keep

    check()


def test_a_token_is_compared_again_once_its_stored_partners_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(root_merging, "_STORED", 1)
    angles = torch.tensor([0.0, 40.0, 41.0, 43.0, 80.0]).deg2rad().double()
    found = most_distinct(torch.stack([angles.cos(), angles.sin()], dim=1), 1)
    assert found.pairs.tolist() == [[1, 2], [1, 3], [1, 4], [0, 1]]
