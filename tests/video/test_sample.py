"""Which frames are chosen, without any file."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tangovlm.errors import VideoError
from tangovlm.video.sample import Keyframe, Timeline, standing, uniform

clips = st.sets(st.integers(-(10**6), 10**12), min_size=1, max_size=60).map(sorted)


@pytest.mark.parametrize(("count", "frames"), [(100, 8), (101, 11), (7, 6), (300, 64), (2, 1), (99, 1), (5, 2)])
def test_at_a_constant_rate_it_is_linspace_over_frame_numbers(count: int, frames: int) -> None:
    expected = np.floor(np.linspace(0, count - 1, frames) + 1e-9) if frames > 1 else [(count - 1) // 2]
    assert uniform([17 + 512 * i for i in range(count)], frames) == [int(place) for place in expected]


def test_the_frame_on_screen_is_the_last_whose_time_has_come() -> None:
    assert uniform([0, 10, 11, 12, 50, 74, 99, 100], 5) == [0, 3, 4, 5, 7]
    assert uniform([0, 24, 26, 49, 51, 100], 3) == [0, 3, 5]


def test_a_frame_that_stays_long_is_taken_once_and_the_others_where_pictures_change() -> None:
    assert uniform([0, 1000, 1001, 1002, 1003, 1004], 4) == [0, 1, 3, 5]
    assert uniform([0, 1, 2, 3, 1000], 4) == [0, 1, 3, 4]
    recording = [*range(0, 2000, 40), *range(2000, 5000, 1000), *range(5000, 6000, 40)]
    # 3 s, of which 3 pictures are shown for 1 s each, and 3 s at 25 frames a second.
    assert standing(recording, 16) == [1000, 1000, 1000]
    times = [recording[place] for place in uniform(recording, 16)]
    assert times == [0, 240, 480, 720, 960, 1200, 1480, 1720, 1960, 2000, 3000, 4000, 5200, 5440, 5680, 5960]


def brute_force(pts: list[int], frames: int) -> list[int]:
    """The largest limit, found by bisection, at which no frame, shown for at most the limit, has two of the times."""
    gaps = np.diff(pts).astype(float)
    low, high = 0.0, float(gaps.sum())
    for _ in range(100):
        limit = (low + high) / 2
        low, high = (limit, high) if np.minimum(gaps, limit).sum() >= limit * (frames - 1) else (low, limit)
    clock = np.concatenate([[0], np.cumsum(np.minimum(gaps, low))])
    times = np.linspace(0, clock[-1], frames)
    return [int(np.searchsorted(clock, time * (1 + 1e-9), "right")) - 1 for time in times]


@pytest.mark.parametrize("seed", range(20))
def test_frames_shown_for_long_count_as_if_they_were_shown_for_the_distance_of_two_times(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pts = [0, *np.cumsum(rng.choice([3, 4, 7, 100, 1500], size=40, p=[0.3, 0.3, 0.2, 0.1, 0.1])).tolist()]
    for frames in (5, 12, 30):
        times = [pts[-1] * i // (frames - 1) for i in range(frames)]
        shown = [int(np.searchsorted(pts, time, "right")) - 1 for time in times]
        if len(set(shown)) < frames:
            assert uniform(pts, frames) == brute_force(pts, frames)


def test_a_rate_that_wavers_is_no_picture_that_stands() -> None:
    thirds = [round(1000 * i / 30) for i in range(100)]
    film = [place // 2 * 83 + place % 2 * 33 for place in range(100)]  # shown for 33 and 50 ms in turn
    for pts in (thirds, film):
        assert not any(standing(pts, frames) for frames in (1, 2, 16, 50, 90, 99, 100, 101))


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
