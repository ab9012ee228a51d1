"""Times of calls, and waits for a device."""

import pytest
import torch

from tangovlm.bench.timing import Timing, synchronizations, timed


def test_median_and_p80() -> None:
    assert (Timing((5.0, 1.0, 3.0), None).median_ms, Timing((7.0,), None).p80_ms) == (3.0, 7.0)
    assert Timing(tuple(float(ms) for ms in range(11)), None).p80_ms == 8.0


def test_warm_up_is_not_counted() -> None:
    calls: list[int] = []
    found = timed(lambda: calls.append(1) or len(calls), device=torch.device("cpu"), repeats=3, warm_up=2)
    assert (len(found.runs_ms), found.result) == (3, 5)
    assert all(ms > 0 for ms in found.runs_ms)


def test_no_run_begins_after_the_limit() -> None:
    calls: list[int] = []
    found = timed(lambda: calls.append(1), device=torch.device("cpu"), repeats=100, warm_up=2, limit_ms=0)
    assert (len(found.runs_ms), len(calls)) == (1, 3)


def test_the_cpu_waits_for_nothing() -> None:
    assert synchronizations(lambda: None, torch.device("cpu")) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_waits_are_counted() -> None:
    device = torch.device("cuda")
    values = torch.ones(3, device=device)
    assert synchronizations(lambda: values + 1, device) == 0
    assert synchronizations(lambda: values[0].item() + values[1].item(), device) == 2
