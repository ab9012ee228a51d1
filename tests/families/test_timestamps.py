"""Times of frames from tensors and from the metadata of processors."""

from typing import Any

import pytest
import torch
from transformers.video_utils import VideoMetadata

from tangovlm.errors import InputError
from tangovlm.families import timestamps


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
    with pytest.raises(InputError, match="video_metadata holds int"):
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
