"""Frames of files one by one are those that `decode` returns; files that grow; memory."""

import shutil
import threading
import time
from contextlib import nullcontext
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pytest
import torch

from tangovlm.errors import VideoError
from tangovlm.streaming import files
from tangovlm.streaming.files import FrameWalk
from tangovlm.streaming.follow import follow
from tangovlm.video import FrameSampling, decode
from tangovlm.video.index import WrongIndexError
from tangovlm.video.parallel import frames_at
from tests.video.test_damage import KINDS, damaged, keyframes, write

SIZE = (48, 80)


def fit(_height: int, _width: int, _frames: int) -> tuple[int, int]:
    return SIZE


def walked(path: Any, **options: Any) -> tuple[torch.Tensor, list[float], FrameWalk]:
    walk = FrameWalk(path, FrameSampling(**options), fit=fit)
    steps = list(walk)
    return torch.stack([step.picture for step in steps]), [step.time_s for step in steps], walk


@pytest.mark.parametrize("name", [*KINDS, "many.mp4"])
@pytest.mark.parametrize(
    "options",
    [{"fps": 25}, {"fps": 3}, {"fps": 4, "start_s": 0.5, "end_s": 1.5}, {"fps": 7, "max_frames": 5}, {"frames": 6}],
)
def test_frames_are_those_of_decode(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    path = write(tmp_path / name, **KINDS.get(name, {"gop": 2}))
    pictures, times, walk = walked(path, **options)
    expected = decode(path, FrameSampling(**options), size=SIZE)
    assert torch.equal(pictures, expected.pixels)
    assert times == expected.prompt_times_s.tolist()
    assert walk.count == len(times) and walk.duration_s == expected.duration_s
    assert walk.notes == expected.notes


def test_pictures(tmp_path: Path) -> None:
    from PIL import Image

    for number in range(5):
        Image.new("RGB", (60, 40), (40 * number, 10, 10)).save(tmp_path / f"{number}.png")
    pictures, times, walk = walked(tmp_path, fps=1)
    expected = decode(tmp_path, fps=1, size=SIZE)
    assert torch.equal(pictures, expected.pixels) and times == expected.timestamps_s.tolist()
    assert walk.notes == expected.notes


def test_later_frames_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4", **KINDS["clip.mp4"])
    pictures, times, _ = walked(path, fps=5)
    walk = FrameWalk(path, FrameSampling(fps=5), fit=fit, after_s=times[3])
    steps = list(walk)
    assert [step.time_s for step in steps] == times[4:] and torch.equal(steps[0].picture, pictures[4])
    assert walk.count == len(times) - 4


def test_damage_is_said_or_refused(tmp_path: Path) -> None:
    healthy = write(tmp_path / "clip.mp4", **KINDS["clip.mp4"])
    path = damaged(healthy, tmp_path / "damaged.mp4", keyframes(healthy)[1:2])
    assert any("may show damage" in note for note in walked(path, fps=25)[2].notes)
    path = damaged(healthy, tmp_path / "more.mp4", keyframes(healthy))
    with pytest.raises(VideoError, match="may show damage; copy the file again"):
        walked(path, fps=25)


def test_an_index_that_is_wrong_halfway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "clip.mp4", **KINDS["clip.mp4"])
    pictures, times, _ = walked(path, fps=5)
    calls = 0

    def wrong_once(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        decoded = frames_at(*args)
        if calls > 1:
            return decoded
        return chain(islice(decoded, 4), raising())

    def raising() -> Any:
        raise WrongIndexError
        yield

    monkeypatch.setattr(files, "closing", nullcontext)
    monkeypatch.setattr(files, "frames_at", wrong_once)
    steps = list(FrameWalk(path, FrameSampling(fps=5), fit=fit))
    assert calls == 2
    assert [step.time_s for step in steps] == times
    assert all(torch.equal(step.picture, picture) for step, picture in zip(steps, pictures, strict=True))


@pytest.mark.parametrize("name", ["clip.ts", "clip.mkv"])
def test_a_file_that_grows(tmp_path: Path, name: str) -> None:
    whole = write(tmp_path / f"whole-{name}", **KINDS[name])
    data, path = whole.read_bytes(), tmp_path / name
    pictures, times, walk = walked(whole, fps=10)

    def grow() -> None:
        for part in range(1, 9):
            time.sleep(0.1)
            with path.open("ab") as file:
                file.write(data[len(data) * (part - 1) // 8 : len(data) * part // 8])

    writer = threading.Thread(target=grow)
    writer.start()
    notes: list[str] = []
    steps = list(follow(path, FrameSampling(fps=10), fit, 1.5, notes))
    writer.join()
    assert [step.time_s for step in steps] == pytest.approx(times)
    assert all(torch.equal(step.picture, picture) for step, picture in zip(steps, pictures, strict=True))
    assert notes == list(walk.notes)


def test_the_last_frame_of_a_file_that_grows_waits(tmp_path: Path) -> None:
    """Also if frames are further apart than the margin."""
    path = write(tmp_path / "clip.ts", **KINDS["clip.ts"])
    times = walked(path, fps=25)[1]
    for margin, most in ((0.01, times[-2]), (0.5, times[-1] - 0.5)):
        steps = list(FrameWalk(path, FrameSampling(fps=25), fit=fit, margin_s=margin))
        assert [step.time_s for step in steps] == [time for time in times if time <= most + 1e-9]


def test_a_file_that_becomes_shorter(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.ts", **KINDS["clip.ts"])
    frames = follow(path, FrameSampling(fps=5), fit, 5.0, [])
    next(frames)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(VideoError, match="became shorter while it was read"):
        list(frames)


def test_a_file_that_cannot_be_read_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    shutil.copy(write(tmp_path / "whole.mp4", **KINDS["clip.mp4"]), path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(VideoError, match=r"clip\.mp4"):
        list(follow(path, FrameSampling(fps=5), fit, 0.2, []))
