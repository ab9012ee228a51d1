"""Greedy max-min choice against a plain version on a full matrix."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tangovlm.methods.common import diversity
from tangovlm.methods.common.diversity import max_min
from tangovlm.methods.common.similarity import normalize

COMMON = settings(max_examples=60, deadline=None, derandomize=True)


def points(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def matrix(unit: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return (1 - unit @ unit.T) * weights


def isolation(distances: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Second smallest entry of each column."""
    return np.sort(distances, axis=0)[1] if len(distances) > 1 else np.zeros(1)


def plain(distances: npt.NDArray[np.float64], first: int, keep: int) -> list[int]:
    chosen = [first]
    while len(chosen) < keep:
        nearest = distances[chosen].min(axis=0)
        nearest[chosen] = -np.inf
        chosen.append(int(nearest.argmax()))
    return chosen


@COMMON
@given(st.integers(1, 3), st.integers(1, 30), st.integers(4, 12), st.booleans(), st.integers(0, 2**31), st.data())
def test_equals_the_plain_version(batch: int, n: int, dim: int, weighted: bool, seed: int, data: st.DataObject) -> None:
    keep = data.draw(st.integers(1, n))
    unit = normalize(points((batch, n, dim), seed))
    weights = points((batch, n), seed + 1) if weighted else None
    chosen = max_min(unit, keep, weights=weights)
    for b in range(batch):
        table = matrix(unit[b].numpy(), weights[b].numpy() if weights is not None else np.ones(n))
        first = int(chosen[b, 0])
        # Two tokens may be each other's nearest ones, at the same distance.
        assert isolation(table)[first] == pytest.approx(isolation(table).max(), abs=1e-12)
        assert chosen[b].tolist() == plain(table, first, keep)
    assert torch.equal(chosen, max_min(unit, n, weights=weights)[:, :keep])


@pytest.mark.parametrize("kind", [torch.zeros, torch.ones])
def test_duplicates_are_chosen_once_in_order(kind: type[torch.Tensor]) -> None:
    assert max_min(normalize(kind(1, 7, 4)), 7).tolist() == [[0, 1, 2, 3, 4, 5, 6]]


def test_releases_let_a_chosen_token_compete() -> None:
    unit = normalize(torch.eye(2).repeat(3, 1))[None]
    assert len(set(max_min(unit, 5)[0].tolist())) == 5
    assert len(set(max_min(unit, 5, repeat=True)[0].tolist())) == 2


def test_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    unit = normalize(points((2, 23, 6), 3))
    whole = max_min(unit, 11)
    monkeypatch.setattr(diversity, "_TILE_ELEMENTS", 100)
    assert torch.equal(max_min(unit, 11), whole)
