"""What is said about a file: what is missing, and nothing about files that are whole."""

from pathlib import Path

import pytest

from tangovlm.video import decode
from tests.support import clips

KINDS = {name: {} for name in ("clip.mp4", "clip.mov", "clip.mkv", "clip.ts")}
KINDS |= {"clip.flv": {"b_frames": 0}, "clip.avi": {"codec": "mpeg4", "b_frames": 0}}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("start_ms", [0, 100_000])
def test_a_longer_sound_track_is_no_sign_of_a_cut(tmp_path: Path, name: str, start_ms: int) -> None:
    """10 s of sound beside 2 s of video, also where the clock does not start at 0."""
    times = [start_ms * (name != "clip.avi") + 40 * i for i in range(50)]  # AVI fills the beginning with empty frames
    path = clips.write(tmp_path / name, times, sound=True, sound_s=10, **KINDS[name])
    frames = decode(path, 4)
    assert clips.numbers(frames.pixels) == [number for _, number in clips.on_screen(clips.every_frame(path), 4)]
    assert frames.duration_s == pytest.approx(2, abs=0.05)
    assert frames.notes == ()


@pytest.mark.parametrize("sound", [False, True])
@pytest.mark.parametrize("name", ["clip.mkv", "clip.flv"])
@pytest.mark.parametrize("start_ms", [0, 3_000])
def test_a_file_that_is_cut_short_is_said(tmp_path: Path, name: str, sound: bool, start_ms: int) -> None:
    """The sound, which is cut too, does not hide it."""
    path = clips.write(tmp_path / name, [start_ms + 40 * i for i in range(250)], sound=sound, sound_s=15, **KINDS[name])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    frames = decode(path, 8)
    assert len(frames.pixels) == 8
    (note,) = frames.notes
    assert note.endswith(f"but has {frames.duration_s:.1f} s: it may be truncated")
    assert frames.duration_s < 8
