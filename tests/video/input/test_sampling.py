"""Which frames are taken, compared with decoding everything and picking."""

from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest
import torch

from tangovlm.errors import VideoError
from tangovlm.video import Frames, FrameSampling, decode
from tangovlm.video.prefetch import FramePrefetcher
from tests.support import clips

KINDS: dict[str, dict[str, Any]] = {name: {} for name in ("clip.mp4", "clip.mkv", "clip.ts")}
KINDS |= {"clip.flv": {"b_frames": 0}, "clip.avi": {"codec": "mpeg4", "b_frames": 0}}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """50 frames, 2 s, in each container; and 250 frames as long.mp4."""
    folder = tmp_path_factory.mktemp("clips")
    made = {name: clips.write(folder / name, 50, **options) for name, options in KINDS.items()}
    return made | {"long.mp4": clips.write(folder / "long.mp4", 250)}


def from_zero(path: Path) -> list[tuple[float, int]]:
    everything = clips.every_frame(path)
    return [(time - everything[0][0], number) for time, number in everything]


def shown_at(frames: list[tuple[float, int]], moments: list[float]) -> list[int]:
    """The number on screen at each time, without repetitions."""
    # Matroska and FLV round times to milliseconds.
    numbers = [[number for time, number in frames if time <= moment + 0.0006][-1] for moment in moments]
    return list(dict.fromkeys(numbers))


def taken(frames: Frames) -> list[int]:
    return clips.numbers(frames.pixels)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(("start", "end"), [(0.5, 1.3), (None, 0.5), (0.99, 1.01), (1.98, None)])
def test_a_part_has_the_frames_on_screen_in_it(
    files: dict[str, Path], name: str, start: float | None, end: float | None
) -> None:
    path = files[name]
    frames = decode(path, 100, start_s=start, end_s=end)
    everything = from_zero(path)
    first = shown_at(everything, [start or 0])
    expected = [number for time, number in everything if number > first[0] and time < (end or 9) - 0.0006]
    assert taken(frames) == first + expected
    assert frames.timestamps_s.tolist() == pytest.approx([dict(map(reversed, everything))[n] for n in taken(frames)])
    assert frames.excerpt_s == (start or 0, pytest.approx(end or 2))
    assert frames.duration_s == pytest.approx(2)


def test_frames_are_uniform_over_the_part(files: dict[str, Path], tmp_path: Path) -> None:
    frames = decode(files["long.mp4"], 5, start_s=2, end_s=6.02)
    assert taken(frames) == [50, 75, 100, 125, 150]
    assert frames.timestamps_s.tolist() == [2, 3, 4, 5, 6]
    assert frames.prompt_times_s.tolist() == [0, 1, 2, 3, 4]
    assert frames.prompt_duration_s == pytest.approx(4.02)
    assert frames.notes == ("only a part is taken: 0 s in the prompt is 2 s of the video",)
    cut = clips.write(tmp_path / "cut.mp4", 101, first=50)
    alone = decode(cut, 5)
    assert taken(alone) == taken(frames)
    assert alone.prompt_times_s.tolist() == frames.prompt_times_s.tolist()


def test_parts_that_meet_share_no_frame(tmp_path: Path) -> None:
    path = clips.write(tmp_path / "clip.mkv", [round(1000 * i / 30) for i in range(90)])
    borders = [0.0, 0.7, 1.1, 1.9, 3.0]
    parts = [taken(decode(path, 90, start_s=a, end_s=b)) for a, b in pairwise(borders)]
    assert [number for part in parts for number in part] == list(range(90))


def test_a_picture_that_stands_at_the_start_is_taken(tmp_path: Path) -> None:
    path = clips.write(tmp_path / "slides.mkv", [0, 10_000, 20_000, 30_000])
    frames = decode(path, 9, start_s=15, end_s=25)
    assert taken(frames) == [1, 2]
    assert frames.timestamps_s.tolist() == [10, 20]
    assert frames.prompt_times_s.tolist() == [0, 5]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("fps", [2.5, 24, 60])
def test_a_rate(files: dict[str, Path], name: str, fps: float) -> None:
    path = files[name]
    moments = [i / fps for i in range(200) if i / fps < 2 - 1e-9]
    frames = decode(path, fps=fps)
    assert taken(frames) == shown_at(from_zero(path), moments)
    assert frames.excerpt_s is None
    repeated = (f"{fps:g} frames per second are {len(moments)} times, at which {len(frames.pixels)} different frames",)
    assert [note[: len(repeated[0])] for note in frames.notes] == list(repeated if fps > 25 else ())


@pytest.mark.parametrize("rate", [30, Fraction(30000, 1001), 60])
@pytest.mark.parametrize("name", ["clip.mkv", "clip.mp4"])
def test_the_rate_of_the_video_takes_every_frame_though_times_are_rounded(
    tmp_path: Path, name: str, rate: Fraction
) -> None:
    path = clips.write(tmp_path / name, [round(1000 * i / rate) for i in range(90)])
    assert taken(decode(path, fps=float(rate))) == list(range(90))


def test_a_rate_within_a_part_counts_from_its_start(files: dict[str, Path]) -> None:
    path = files["long.mp4"]
    frames = decode(path, fps=2, start_s=3.24, end_s=5.24)
    assert taken(frames) == shown_at(from_zero(path), [3.24, 3.74, 4.24, 4.74])
    assert frames.prompt_duration_s == pytest.approx(2)


def test_more_frames_than_the_maximum_are_taken_uniformly(files: dict[str, Path]) -> None:
    path = files["long.mp4"]
    frames = decode(path, fps=10, max_frames=6)
    assert taken(frames) == taken(decode(path, 6))
    assert frames.notes == ("10 frames per second are 100 frames: 6 are taken, uniformly",)
    assert decode(path, fps=1, max_frames=10).notes == ()


def test_a_rate_without_a_maximum_is_limited(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tangovlm.video.input.sampling.MOST_FRAMES", 20)
    path = files["clip.mp4"]
    frames = decode(path, fps=25, size=(4, 4))
    assert frames.pixels.shape[0] == 20
    assert frames.notes == ("25 frames per second are 50 frames: 20 are taken, uniformly",)
    assert decode(path, fps=25, max_frames=50, size=(4, 4)).pixels.shape[0] == 50
    # The number of times is not a number of steps.
    assert decode(path, fps=1e12, max_frames=2, size=(4, 4)).pixels.shape[0] == 2


def test_times_of_a_part_while_it_is_decoded(files: dict[str, Path]) -> None:
    path = files["clip.mp4"]
    with FramePrefetcher(path, FrameSampling(fps=5, start_s=1)) as ahead:
        assert ahead.timestamps_s.tolist() == pytest.approx([1, 1.2, 1.4, 1.6, 1.8])
        assert torch.equal(ahead.take(0, 5), decode(path, fps=5, start_s=1).pixels)


def test_keyframes_are_those_of_the_part(files: dict[str, Path]) -> None:
    with av.open(str(files["long.mp4"])) as container:
        decoded = container.decode(video=0)
        keys = [place for place, frame in enumerate(decoded) if frame.key_frame and 25 <= place <= 70]
    exact = taken(decode(files["long.mp4"], 4, start_s=1, end_s=2.84))
    frames = decode(files["long.mp4"], 4, start_s=1, end_s=2.84, seek="keyframe")
    assert exact == [25, 40, 55, 70]
    assert taken(frames) == [min(keys, key=lambda key: abs(key - place)) for place in exact]
    assert frames.keyframes == len(set(taken(frames)) - set(exact)) > 0
    assert frames.notes[-1].startswith("seek=keyframe: ")
    rate = decode(files["long.mp4"], FrameSampling(fps=2, end_s=3, seek="keyframe"))
    assert taken(rate) == taken(decode(files["long.mp4"], fps=2, end_s=3, seek="keyframe"))
    with pytest.raises(VideoError, match="choose one of exact, keyframe, auto"):
        decode(files["long.mp4"], 4, seek="fast")  # type: ignore[arg-type]


def test_a_picture_that_began_long_before_the_part_counts_from_its_start(tmp_path: Path) -> None:
    """Shown for 60 s, of which 1 s is in the part."""
    path = clips.write(tmp_path / "slides.mkv", [0, *range(60_000, 63_000, 40)])
    frames = decode(path, 4, start_s=59, end_s=62)
    assert taken(frames) == [0, 1, 25, 50]
    assert frames.notes == ("only a part is taken: 0 s in the prompt is 59 s of the video",)
    assert frames.prompt_times_s.tolist() == pytest.approx([0, 1, 1.96, 2.96])


def test_the_end_of_the_video_before_that_of_the_part_is_said(files: dict[str, Path]) -> None:
    path = files["clip.mp4"]
    assert decode(path, 2, end_s=7).notes == ("the video ends at 2.00 s, before the end of 7 s",)
    assert decode(path, 2, end_s=2).notes == ()


def test_a_start_behind_the_end_of_the_video(files: dict[str, Path]) -> None:
    path = files["clip.mp4"]
    for start in (2, 60.5):
        with pytest.raises(VideoError, match=f"clip.mp4: the start is {start} s, but the video ends at 2.00 s"):
            decode(path, 4, start_s=start)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "neither frames nor fps"),
        ({"frames": 0}, "frames=0"),
        ({"frames": True}, "frames=True"),
        ({"frames": 4, "fps": 1}, "frames and fps are both given"),
        ({"fps": 0}, "fps=0"),
        ({"fps": -2.0}, "fps=-2.0"),
        ({"fps": float("nan")}, "fps=nan"),
        ({"fps": float("inf")}, "fps=inf"),
        ({"fps": "2"}, "fps='2'"),
        ({"fps": 1, "max_frames": 0}, "max_frames=0"),
        ({"frames": 4, "max_frames": 8}, "max_frames is given without fps"),
        ({"max_frames": 8}, "max_frames is given without fps"),
        ({"frames": 4, "start_s": -1}, "the start is -1"),
        ({"frames": 4, "start_s": float("nan")}, "the start is nan"),
        ({"frames": 4, "end_s": float("inf")}, "the end is inf"),
        ({"frames": 4, "end_s": 0}, r"the end \(0 s\) is not after the start \(0 s\)"),
        ({"frames": 4, "start_s": 5, "end_s": 5.0}, r"the end \(5 s\) is not after the start \(5 s\)"),
        ({"frames": FrameSampling(4), "start_s": 1}, "FrameSampling, and start_s is given too"),
    ],
)
def test_what_does_not_fit_is_refused(files: dict[str, Path], options: dict[str, Any], words: str) -> None:
    with pytest.raises(VideoError, match=words):
        decode(files["clip.mp4"], **options)


def test_a_number_replaces_a_rate_and_the_other_way_round() -> None:
    rate = FrameSampling(fps=2, max_frames=9, start_s=1)
    assert rate.overridden(frames=4) == FrameSampling(4, start_s=1)
    assert FrameSampling(4, start_s=1).overridden(fps=2, end_s=3) == FrameSampling(fps=2, start_s=1, end_s=3)
    assert rate.overridden(max_frames=3) == FrameSampling(fps=2, max_frames=3, start_s=1)
    assert rate.or_frames(8) == rate
    assert FrameSampling(start_s=1).or_frames(8) == FrameSampling(8, start_s=1)
