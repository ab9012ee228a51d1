"""The greedy choice by blocks against plain loops that choose one by one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tangovlm.kernels.farthest_first import Choice, choose_farthest
from tangovlm.kernels.farthest_first import pytorch as choosing
from tangovlm.kernels.farthest_first.reference import choose_farthest_reference

BLOCKS = (1, 2, 7, 64, 2000)
SOME = settings(max_examples=120, deadline=None, derandomize=True)


def whole(*shape: int, low: int, high: int, seed: int) -> Tensor:
    return torch.randint(low, high + 1, shape, generator=torch.Generator().manual_seed(seed)).float()


def assert_as_loops(found: Choice, points: Tensor, weights: Tensor, bounds: Tensor, keep: int, floor: float) -> None:
    order, nearest, distance = choose_farthest_reference(
        points.tolist(), weights.tolist(), bounds.tolist(), keep, floor
    )
    assert found.order.tolist() == order
    assert found.nearest.tolist() == nearest
    assert found.distance.tolist() == distance


@SOME
@given(st.data(), st.integers(1, 40), st.integers(1, 4), st.integers(0, 999), st.sampled_from((1, 2, 20)))
def test_every_block_gives_the_choice_of_one_by_one(
    data: st.DataObject, count: int, channels: int, seed: int, spread: int
) -> None:
    """Whole coordinates and weights: ties, copies of points, bounds of zero and weights of zero."""
    points = whole(count, channels, low=-spread, high=spread, seed=seed)
    weights = whole(count, low=0, high=3, seed=seed + 1)
    bounds = whole(count, low=0, high=3 * spread**2, seed=seed + 2)
    keep = data.draw(st.integers(1, count))
    floor = float(data.draw(st.sampled_from((0, 1, spread**2))))
    before = [part.clone() for part in (points, weights, bounds)]
    for block in BLOCKS:
        found = choose_farthest(points, weights, bounds, keep, torch.tensor(floor), block=block)
        assert_as_loops(found, points, weights, bounds, keep, floor)
    assert all(torch.equal(a, b) for a, b in zip(before, (points, weights, bounds), strict=True))


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("tile", [1, 1 << 22])
def test_many_points(block: int, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "_TILE_ELEMENTS", tile)
    points = whole(150, 6, low=-200, high=200, seed=5)
    weights, bounds = whole(150, low=1, high=9, seed=6), whole(150, low=0, high=50_000, seed=7)
    found = choose_farthest(points, weights, bounds, 60, block=block)
    assert_as_loops(found, points, weights, bounds, 60, 0.0)


def test_copies_complete_the_choice_without_comparing_all_with_all(monkeypatch: pytest.MonkeyPatch) -> None:
    learned = []
    learn = choosing._Search._learn
    monkeypatch.setattr(choosing._Search, "_learn", lambda self, *of: (learned.append(len(of[0])), learn(self, *of)))
    points = torch.ones(50_000, 4)
    found = choose_farthest(points, torch.ones(50_000), torch.full((50_000,), 7.0), 20_000)
    assert found.order.tolist() == list(range(20_000))
    assert sum(learned) <= 2


def test_rounds_stay_few() -> None:
    """One transfer to the host per block, and far fewer blocks than choices."""
    points = whole(3000, 16, low=-900, high=900, seed=1)
    weights, bounds = 0.5 + torch.rand(3000, generator=torch.Generator().manual_seed(0)), torch.full((3000,), 2e7)
    search = choosing._Search(points, weights, bounds, None)
    rounds = 0
    while search.left(300):
        search.choose_block(300, choosing.BLOCK)
        rounds += 1
    assert rounds < 20
