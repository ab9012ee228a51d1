"""Times of frames from tensors and from the metadata of processors."""

from typing import Any

import pytest
import torch
from transformers.video_utils import VideoMetadata

from tangovlm.errors import InputError
from tangovlm.inputs import timestamps


def test_metadata_objects_mappings_and_nesting() -> None:
    one = VideoMetadata(total_num_frames=9, fps=4.0, frames_indices=[0, 2, 8])
    two = {"fps": 2, "frames_indices": torch.tensor([1, 3])}
    got = timestamps.from_metadata([[one], [two]])
    assert [seconds.tolist() for seconds in got] == [[0.0, 0.5, 2.0], [0.5, 1.5]]


@pytest.mark.parametrize(
    "fields", [{}, {"fps": None, "frames_indices": [0]}, {"fps": 2.0}, {"fps": 0, "frames_indices": [0]}]
)
def test_metadata_that_does_not_tell(fields: dict[str, Any]) -> None:
    assert timestamps.from_metadata(fields) == [None]


def test_metadata_of_another_kind() -> None:
    with pytest.raises(InputError, match="video_metadata has int"):
        timestamps.from_metadata([3])


@pytest.mark.parametrize("given", [[], "1", 3.0, [torch.ones(1, 2)], [1.0, "2"], [[1.0, 2.0]]])
def test_given_of_another_kind(given: Any) -> None:
    with pytest.raises(InputError, match="timestamps must be"):
        timestamps.given(given)


def test_one_for_all_or_one_each() -> None:
    first, second = torch.arange(2.0), torch.arange(3.0)
    assert timestamps.assign([first], [2, 2]) == [first, first]
    assert timestamps.assign([first, second], [2, 3]) == [first, second]
    assert timestamps.assign([None], [4]) == [None]


@pytest.mark.parametrize(("frames", "per_step"), [(1, 2), (2, 2), (4, 2), (7, 2), (32, 2), (9, 3), (5, 4)])
def test_times_of_steps(frames: int, per_step: int) -> None:
    """The first frame of a step, or the middle of the first and the last; the last frame fills the last step up."""
    seconds = torch.arange(frames, dtype=torch.float64) ** 2
    filled = [*seconds.tolist(), *[float(seconds[-1])] * (-frames % per_step)]
    steps = [filled[start : start + per_step] for start in range(0, len(filled), per_step)]
    (first,), (middle,) = (timestamps.assign([seconds], [len(steps)], per_step, way) for way in (False, True))
    assert first.tolist() == [step[0] for step in steps]
    assert middle.tolist() == [(step[0] + step[-1]) / 2 for step in steps]


def test_what_metadata_tells_of_the_whole_video() -> None:
    whole = VideoMetadata(total_num_frames=90, fps=30.0, duration=3.0, frames_indices=[0, 30, 60])
    part = {"fps": 2, "frames_indices": [1, 3]}
    (first, second, third) = timestamps.samplings([[whole], part, {"fps": None}])
    assert (first.seconds.tolist(), first.duration_s, first.sampled_fps) == ([0.0, 1.0, 2.0], 3.0, whole.sampled_fps)
    assert (second.seconds.tolist(), second.duration_s, second.sampled_fps) == ([0.5, 1.5], None, None)
    assert third == timestamps.Sampling()
