"""Runs of tokens against plain loops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tangovlm.kernels.token_runs import find_runs
from tangovlm.kernels.token_runs.reference import find_runs_reference


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 9), st.integers(1, 6), st.integers(1, 5), st.integers(0, 99), st.integers(0, 12))
def test_runs_equal_loops(frames: int, length: int, channels: int, seed: int, limit: int) -> None:
    """Small integers, so that many distances are equal to the limit."""
    points = torch.randint(-2, 3, (frames, length, channels), generator=torch.Generator().manual_seed(seed)).float()
    before = points.clone()
    found = find_runs(points, torch.tensor(float(limit)))
    assert found.dtype == torch.int64
    assert found.tolist() == find_runs_reference(points.tolist(), limit)
    assert torch.equal(points, before)


def test_a_slow_change_ends_a_run() -> None:
    """Each token is near the one before; only the distance to the first of the run grows."""
    points = torch.arange(10.0).view(10, 1, 1)
    assert find_runs(points, torch.tensor(4.0)).flatten().tolist() == [0, 0, 0, 3, 3, 3, 6, 6, 6, 9]


@pytest.mark.parametrize(("limit", "runs"), [(0.0, 1), (-1.0, 12)])
def test_equal_tokens(limit: float, runs: int) -> None:
    assert len(find_runs(torch.ones(12, 1, 3), torch.tensor(limit)).unique()) == runs
