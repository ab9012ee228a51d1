"""Predictions follow from the profile that they are derived from."""

import pytest

from tangovlm.evaluate.reproduce.paper import profile
from tests.support.reproduce import plan


def test_the_prediction_gives_back_the_profile_that_it_comes_from() -> None:
    made = plan("table1")
    (step,) = [step for step in made.steps if step.row.key == "10-tango-the-release"]
    ttft_s = profile()["ttft_ms"] / 1000
    # Two words of the answer beside the time to the first one.
    assert step.cost.seconds - 2 / profile()["decode_tokens_per_s"] == pytest.approx(ttft_s, rel=0.02)
    assert step.cost.memory_gb == pytest.approx(profile()["peak_memory_gb"], rel=0.15)
    whole = made.steps[0].cost
    assert whole.seconds > step.cost.seconds
    assert made.totals["gpu_hours"] == pytest.approx(sum(each.cost.hours for each in made.steps), abs=0.1)
    assert plan("table1", gpus=8).totals["wall_hours"] == pytest.approx(made.totals["gpu_hours"] / 8, abs=0.1)
    assert plan("table1", limit=20).totals["gpu_hours"] < 5


def test_a_faster_gpu_is_predicted_to_take_less() -> None:
    slow, fast = plan("qwen"), plan("qwen", device="NVIDIA H200")
    assert fast.totals["gpu_hours_busy"] < slow.totals["gpu_hours_busy"]
    assert "NVIDIA H200" in fast.assumptions
    assert "an A800" in plan("qwen", device="some other device").assumptions
