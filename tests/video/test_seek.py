"""Nearest keyframes in place of exact times, against decoding everything and picking."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tangovlm.errors import VideoError
from tangovlm.video import FrameSampling, decode
from tangovlm.video.prefetch import FramePrefetcher
from tangovlm.video.sample import Keyframe, Timeline, take_keyframes, uniform
from tests.support import clips

Shown = tuple[Fraction, int, bool]


def every_frame(path: Path) -> list[Shown]:
    """(seconds since the first, number, whether it is a keyframe) of all frames, decoded straight through."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [
            (frame.pts * stream.time_base, clips.number(frame.to_ndarray(format="rgb24")), frame.key_frame)
            for frame in container.decode(stream)
        ]
    return [(time - frames[0][0], number, key) for time, number, key in frames]


def nearest(frames: list[Shown], wanted: list[Shown]) -> list[Shown]:
    """The keyframe nearest to each frame; of several with the same, only the nearest is replaced, or the first."""
    keys = [min((key for key in frames if key[2]), key=lambda key: abs(key[0] - each[0])) for each in wanted]
    found = []
    for each, key in zip(wanted, keys, strict=True):
        rivals = [other for other, its in zip(wanted, keys, strict=True) if its == key]
        found.append(key if each == min(rivals, key=lambda other: abs(other[0] - key[0])) else each)
    return found


FILES: dict[str, dict[str, Any]] = {
    "clip.mp4": {},
    "clip.mkv": {},
    "clip.ts": {},
    "clip.flv": {},
    "clip.mpg": {"codec": "mpeg2video"},
    "opengop.mp4": {"options": {"x264-params": "open-gop=1:bframes=3"}},
    "vfr.mkv": {"times": [*range(0, 2000, 20), *range(2000, 12_000, 250), *range(12_000, 13_000, 20)]},
    "onekey.mp4": {"gop": 1000},
    "everykey.mp4": {"gop": 1},
}


@pytest.mark.parametrize("name", FILES)
def test_the_keyframes_nearest_to_the_exact_times(tmp_path: Path, name: str) -> None:
    path = clips.write(tmp_path / name, **{"times": 120, "gop": 10, **FILES[name]})
    everything = every_frame(path)
    for count in (1, 9, 40):
        exact = decode(path, count)
        wanted = [min(everything, key=lambda shown: abs(float(shown[0]) - t)) for t in exact.timestamps_s.tolist()]
        expected = nearest(everything, wanted)
        found = decode(path, count, seek="keyframe")
        assert clips.numbers(found.pixels) == [number for _, number, _ in expected]
        assert found.timestamps_s.tolist() == pytest.approx([float(time) for time, _, _ in expected], abs=1e-12)
        assert (found.fps, found.duration_s, found.start_s) == (exact.fps, exact.duration_s, exact.start_s)
        replaced = sum(old != new for old, new in zip(wanted, expected, strict=True))
        far = (found.timestamps_s - exact.timestamps_s).abs().max().item()
        assert (found.keyframes, exact.keyframes) == (replaced, 0)
        assert exact.notes == found.notes[:-1]
        said = f"{replaced} of {count} frames are replaced by the nearest keyframe, up to {far:.1f} s from their times"
        assert found.notes[-1] == "seek=keyframe: " + (
            said if replaced else "all frames are those at their exact times"
        )


def test_each_frame_is_the_one_that_exact_seeking_has_at_its_time(tmp_path: Path) -> None:
    path = clips.write(tmp_path / "clip.mp4", 200, gop=10)
    everything = decode(path, 200)
    found = decode(path, 5, seek="keyframe")
    places = torch.searchsorted(everything.timestamps_s, found.timestamps_s)
    assert torch.equal(everything.timestamps_s[places], found.timestamps_s)
    assert torch.equal(everything.pixels[places], found.pixels)


def test_two_times_with_one_keyframe(tmp_path: Path) -> None:
    """It is taken for the nearest, and the other is exact."""
    path = clips.write(tmp_path / "clip.mp4", 101, gop=50, options={"sc_threshold": "0"})
    assert [number for _, number, key in every_frame(path) if key] == [0, 50, 100]
    found = decode(path, 6, seek="keyframe")  # 0 20 40 60 80 100; 40 and 60 are equally far from 50
    assert clips.numbers(found.pixels) == [0, 20, 50, 60, 80, 100]
    said = "1 of 6 frames are replaced by the nearest keyframe, up to 0.4 s from their times"
    assert (found.keyframes, found.notes) == (1, (f"seek=keyframe: {said}",))


def test_auto_is_keyframe_where_those_are_several_times_as_dense(tmp_path: Path) -> None:
    path = clips.write(tmp_path / "clip.mp4", 121, gop=5, options={"sc_threshold": "0"})
    exact, found = decode(path, 8), decode(path, 8, seek="auto")  # 17 frames apart
    assert found.keyframes > 4
    assert torch.equal(found.pixels, decode(path, 8, seek="keyframe").pixels)
    assert not torch.equal(found.timestamps_s, exact.timestamps_s)
    close = decode(path, 16, seek="auto")  # 8 frames apart
    assert (close.keyframes, close.notes) == (0, ("seek=auto: all frames are those at their exact times",))
    assert torch.equal(close.pixels, decode(path, 16).pixels)


def test_times_without_keyframes_of_their_own_are_exact(tmp_path: Path) -> None:
    path = clips.write(tmp_path / "clip.avi", 60, codec="mpeg4")  # has no presentation times
    exact, found = decode(path, 7), decode(path, 7, seek="keyframe")
    assert torch.equal(found.pixels, exact.pixels)
    assert found.keyframes == 0
    assert found.notes[-1] == "seek=keyframe: all frames are those at their exact times"


def test_recordings_that_were_joined(tmp_path: Path) -> None:
    parts = [clips.write(tmp_path / f"{first}.ts", 60, first=first, gop=10) for first in (0, 500)]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    found = decode(path, 6, seek="keyframe")
    everything = decode(path, 120)
    places = torch.searchsorted(everything.timestamps_s, found.timestamps_s)
    assert torch.equal(everything.pixels[places], found.pixels)
    assert found.keyframes >= 4
    with av.open(str(path)) as container:
        keys = [clips.number(f.to_ndarray(format="rgb24")) for f in container.decode(video=0) if f.key_frame]
    assert set(clips.numbers(found.pixels)) <= set(keys)


def test_frames_in_advance(tmp_path: Path) -> None:
    path = clips.write(tmp_path / "clip.mp4", 100)
    found = decode(path, 4, seek="keyframe")
    with FramePrefetcher(path, FrameSampling(4, seek="keyframe")) as ahead:
        assert torch.equal(ahead.timestamps_s, found.timestamps_s)
        assert torch.equal(ahead.take(0, 4), found.pixels)
        assert (ahead.result().keyframes, ahead.result().notes) == (found.keyframes, found.notes)


@pytest.mark.parametrize("wrong", ["", "Exact", "keyframes", 1])
def test_ways_that_there_are_not(tmp_path: Path, wrong: Any) -> None:
    with pytest.raises(VideoError, match="choose one of exact, keyframe, auto"):
        decode(tmp_path / "never-opened.mp4", 4, seek=wrong)


@given(
    st.sets(st.integers(0, 1000), min_size=1, max_size=60).map(sorted),
    st.lists(st.integers(0, 59), max_size=12),
    st.integers(1, 30),
    st.sampled_from(["keyframe", "auto"]),
)
def test_times_remain_distinct_in_order_and_as_many(pts: list[int], keys: list[int], frames: int, seek: Any) -> None:
    keyframes = sorted({pts[key] for key in keys if key < len(pts)})
    timeline = Timeline(pts, [Keyframe(pts.index(time), time, None) for time in keyframes])
    times = [pts[place] for place in uniform(pts, frames)]
    taken = take_keyframes(times, timeline, seek)
    assert len(taken.times) == len(times)
    assert all(a < b for a, b in zip(taken.times, taken.times[1:], strict=False))
    if seek == "keyframe":
        assert {min(keyframes, key=lambda key: abs(key - time)) for time in times if keyframes} <= set(taken.times)
    moved = [(old, new) for old, new in zip(times, taken.times, strict=True) if old != new]
    for old, new in moved:
        assert new in keyframes
        assert abs(old - new) == min(abs(old - key) for key in keyframes)
    assert taken.replaced == len(moved)
    assert taken.moved == max((abs(old - new) for old, new in moved), default=0)
