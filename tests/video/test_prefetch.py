"""A clip decoded by a thread: the same frames, each as soon as it is there, and nothing left behind."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tangovlm.errors import VideoError
from tangovlm.video import Frames, decode, prefetch
from tangovlm.video.prefetch import FramePrefetcher, FramesChangedError
from tests.support.clips import numbers, write

TIMES = torch.arange(6, dtype=torch.float64)
PICTURES = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(6, 3, 2, 2)


@pytest.fixture(autouse=True)
def no_threads_left() -> Any:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def acted(monkeypatch: pytest.MonkeyPatch, play: Callable[[Any], Frames | None]) -> FramePrefetcher:
    """An `FramePrefetcher` whose `decode` is a play."""
    monkeypatch.setattr(prefetch, "decode", lambda _path, _frames, *, watch, **_: play(watch))
    return FramePrefetcher("clip.mp4", 6)


def frames_of(pictures: torch.Tensor = PICTURES, times: torch.Tensor = TIMES) -> Frames:
    return Frames(pictures, times, 1.0, 6.0)


@pytest.mark.parametrize("pieces", [[8], [3, 3, 2], [1] * 8])
def test_the_same_frames(tmp_path: Path, pieces: list[int]) -> None:
    clip = write(tmp_path / "clip.mp4", 40)
    wanted = decode(clip, 8, size=(32, 80))
    with FramePrefetcher(clip, 8, size=(32, 80)) as frames:
        assert torch.equal(frames.timestamps_s, wanted.timestamps_s)
        stops = torch.tensor(pieces).cumsum(0).tolist()
        taken = [frames.take(stop - piece, stop) for piece, stop in zip(pieces, stops, strict=True)]
        result = frames.result()
    assert torch.equal(torch.cat(taken), wanted.pixels)
    assert torch.equal(result.pixels, wanted.pixels)
    assert numbers(result.pixels) == numbers(wanted.pixels)
    assert (result.fps, result.duration_s, result.notes) == (wanted.fps, wanted.duration_s, wanted.notes)
    assert frames.waited_ms > 0


def test_frames_are_given_before_the_last_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()

    def play(watch: Any) -> Frames:
        watch.on_timestamps(TIMES)
        watch.on_frames(PICTURES, 1)
        watch.on_frames(PICTURES, 2)
        assert go_on.wait(10)
        watch.on_frames(PICTURES, 6)
        return frames_of()

    with acted(monkeypatch, play) as frames:
        assert torch.equal(frames.take(0, 2), PICTURES[:2])
        go_on.set()
        assert torch.equal(frames.take(2, 6), PICTURES[2:])


@pytest.mark.parametrize("left", [TIMES[:5], TIMES + 0.5])
def test_damage_is_told_with_the_last_frame(monkeypatch: pytest.MonkeyPatch, left: torch.Tensor) -> None:
    def play(watch: Any) -> Frames:
        watch.on_timestamps(TIMES)
        watch.on_frames(PICTURES, len(left))
        return frames_of(PICTURES[: len(left)], left)

    with acted(monkeypatch, play) as frames, pytest.raises(FramesChangedError):
        frames.take(0, 6)


def test_errors_reach_whoever_waits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with FramePrefetcher(tmp_path / "none.mp4", 4) as frames, pytest.raises(VideoError, match="none"):
        _ = frames.timestamps_s

    def play(watch: Any) -> None:
        watch.on_timestamps(TIMES)
        watch.on_frames(PICTURES, 2)
        raise VideoError("the disk is gone")

    with acted(monkeypatch, play) as frames:
        for ask in (lambda: frames.take(2, 4), frames.result):
            with pytest.raises(VideoError, match="the disk is gone"):
                ask()


def test_leaving_stops_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def play(watch: Any) -> None:
        watch.on_timestamps(TIMES)
        while True:
            watch.on_frames(PICTURES, 1)

    with acted(monkeypatch, play) as frames:
        frames.take(0, 1)


def test_pictures_of_a_second_reading_do_not_replace_those_that_were_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A file whose index is wrong is read again, into other memory that is empty at first."""
    go_on = threading.Event()

    def play(watch: Any) -> Frames:
        watch.on_timestamps(TIMES)
        watch.on_frames(PICTURES, 2)
        assert go_on.wait(60)
        return frames_of()

    with acted(monkeypatch, play) as frames:
        wait, waits = frames._wait, []

        def waited(enough: Any) -> torch.Tensor:
            found = wait(enough)
            waits.append(enough)
            if len(waits) == 2:  # first for the times, then for the pictures
                frames.on_frames(torch.zeros_like(PICTURES), 1)
            return found

        monkeypatch.setattr(frames, "_wait", waited)
        taken = frames.take(0, 2)
        go_on.set()
    assert torch.equal(taken, PICTURES[:2])
