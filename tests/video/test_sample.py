"""Which frames are chosen, without any file."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tangovlm.errors import VideoError
from tangovlm.video.sample import Keyframe, Timeline, uniform

clips = st.sets(st.integers(-(10**6), 10**12), min_size=1, max_size=60).map(sorted)


@pytest.mark.parametrize(("count", "frames"), [(100, 8), (101, 11), (7, 6), (300, 64), (2, 1), (99, 1), (5, 2)])
def test_at_a_constant_rate_it_is_linspace_over_frame_numbers(count: int, frames: int) -> None:
    expected = np.floor(np.linspace(0, count - 1, frames) + 1e-9) if frames > 1 else [(count - 1) // 2]
    assert uniform([17 + 512 * i for i in range(count)], frames) == [int(place) for place in expected]


def test_the_frame_on_screen_is_the_last_whose_time_has_come() -> None:
    assert uniform([0, 10, 11, 12, 50, 99, 100], 5) == [0, 3, 4, 4 + 1, 6]
    assert uniform([0, 24, 26, 49, 51, 100], 3) == [0, 3, 5]


def test_a_frame_that_stays_long_is_taken_once() -> None:
    assert uniform([0, 1000, 1001, 1002, 1003, 1004], 4) == [0, 1, 2, 5]
    assert uniform([0, 1, 2, 3, 1000], 4) == [0, 2, 3, 4]


@given(clips, st.integers(1, 80))
def test_exactly_so_many_distinct_frames_in_order(pts: list[int], frames: int) -> None:
    places = uniform(pts, frames)
    assert len(places) == min(frames, len(pts))
    assert all(a < b for a, b in pairwise(places))
    assert places[0] >= 0
    assert places[-1] < len(pts)
    if frames > 1:
        assert (places[0], places[-1]) == (0, len(pts) - 1)


@given(clips, st.integers(2, 80))
def test_frames_move_only_where_two_moments_share_one(pts: list[int], frames: int) -> None:
    moments = [pts[0] + (pts[-1] - pts[0]) * i // (frames - 1) for i in range(frames)]
    shown = [max(place for place, time in enumerate(pts) if time <= moment) for moment in moments]
    if len(set(shown)) == frames:
        assert uniform(pts, frames) == shown


@pytest.mark.parametrize("frames", [0, -1, 2.0, True, None, "8"])
def test_a_number_of_frames_that_is_none(frames: object) -> None:
    with pytest.raises(VideoError, match="must be an integer >= 1"):
        uniform([0, 1, 2], frames)  # type: ignore[arg-type]


def test_decoding_starts_at_the_last_keyframe_not_after_the_frame() -> None:
    keyframes = [Keyframe(0, 10, 8), Keyframe(12, 22, 20), Keyframe(24, 34, 32)]
    timeline = Timeline([*range(10, 40)], keyframes)
    assert [timeline.keyframe(pts) for pts in (9, 10, 21, 22, 33, 34, 39)] == [
        None,
        *[keyframes[i] for i in (0, 0, 1, 1, 2, 2)],
    ]
    assert Timeline([0, 1], keyframes, counted=True).keyframe(39) is None
