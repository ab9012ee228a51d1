"""Qwen3-VL: times of steps."""

from __future__ import annotations

import pytest

from tangovlm.selfcheck.twins.qwen3_vl import Qwen3VLTwin
from tests.support.recording import recorded


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ([0.0, 1.0, 2.0, 3.0], [0.5, 2.5]),
        ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [0.5, 2.5, 4.5, 6.0]),
        ([0.0, 1.0, 2.0, 4.0, 8.0, 16.0], [0.5, 3.0, 12.0]),
        ([2.5], [2.5]),
    ],
)
def test_a_step_of_qwen3_has_the_time_that_its_prompt_says(given: list[float], wanted: list[float]) -> None:
    tokens, _ = recorded(Qwen3VLTwin(), len(given), timestamps=given)
    assert tokens.timestamps.tolist() == wanted
    # The stock processor repeats the last index of an odd number in the metadata that it was given.
    indices = [10 * seconds for seconds in given] + [10 * given[-1]] * (len(given) % 2)
    tokens, _ = recorded(Qwen3VLTwin(), len(given), video_metadata=[{"fps": 10.0, "frames_indices": indices}])
    assert tokens.timestamps.tolist() == wanted
