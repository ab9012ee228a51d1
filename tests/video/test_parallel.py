"""Parts of a clip that are decoded at the same time: the frames of one thread, in order, and nothing left behind."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tangovlm.errors import VideoError
from tangovlm.video import decode, parallel
from tangovlm.video.parallel import split
from tangovlm.video.prefetch import FramePrefetcher
from tangovlm.video.reader import Reader
from tangovlm.video.sample import Keyframe, Timeline
from tests.support import clips

COUNT = 9
FILES: dict[str, dict[str, Any]] = {
    "clip.mp4": {},
    "clip.mkv": {},
    "clip.ts": {},
    "clip.flv": {},
    "clip.mpg": {"codec": "mpeg2video"},
    "opengop.mp4": {"options": {"x264-params": "open-gop=1:bframes=3"}},
    "opengop.ts": {"options": {"x264-params": "open-gop=1:bframes=3"}},
    "fragments.mp4": {"muxer": {"movflags": "frag_keyframe+empty_moov"}},
    "vfr.mkv": {"times": [*range(0, 2000, 20), *range(2000, 12_000, 250), *range(12_000, 13_000, 20)]},
}


@pytest.fixture(autouse=True)
def pools(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Small clips are divided too. The pools that were made; afterwards none of their threads is left."""
    monkeypatch.setattr(parallel, "_WORTH_THREADS", 0)
    made, create = [], parallel._Pool

    def pool(*settings: Any) -> Any:
        made.append(create(*settings))
        return made[-1]

    monkeypatch.setattr(parallel, "_Pool", pool)
    before = threading.active_count()
    yield made
    # A thread that an interrupt met while it was being started cannot be joined, and ends as the others do.
    end = time.monotonic() + 60
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.01)
    assert threading.active_count() == before


def numbers_at(path: Path, times: torch.Tensor) -> list[int]:
    """The numbers of the frames at these times, by decoding all."""
    everything = clips.every_frame(path)
    return [number for time, number in everything if ((times + everything[0][0] - time).abs() < 1e-9).any()]


@pytest.mark.parametrize("name", FILES)
def test_the_same_frames_bit_for_bit(tmp_path: Path, name: str, pools: list[Any]) -> None:
    path = clips.write(tmp_path / name, **{"times": 150, "gop": 8, **FILES[name]})
    wanted = decode(path, COUNT, threads=1)
    assert clips.numbers(wanted.pixels) == numbers_at(path, wanted.timestamps_s)
    assert pools == []
    for threads in (2, 5, 50):
        found = decode(path, COUNT, threads=threads)
        assert torch.equal(found.timestamps_s, wanted.timestamps_s)
        assert torch.equal(found.pixels, wanted.pixels)
        assert found.notes == wanted.notes
        assert len(pools[-1].threads) == min(threads, len(pools[-1]._parts))
        assert len(pools[-1]._parts) >= 4


def test_without_a_number_one_thread_for_each_core(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pools: list[Any]
) -> None:
    path = clips.write(tmp_path / "clip.mp4", 300, gop=4)
    for cores, threads in ((1, 0), (3, 3), (64, 16)):
        monkeypatch.setattr(parallel, "_cores", lambda cores=cores: cores)
        decode(path, 20)
        assert sum(len(pool.threads) for pool in pools) == threads
        pools.clear()
    monkeypatch.setattr(parallel, "_WORTH_THREADS", 10**12)
    decode(path, 20, threads=4)
    assert pools == []


@pytest.mark.parametrize("kind", ["joined.ts", "frames.avi", "every.mp4"])
def test_clips_that_one_thread_reads(tmp_path: Path, kind: str, pools: list[Any]) -> None:
    """A clock that is not continuous, frames that are counted from the beginning, frames that are all needed."""
    parts = [clips.write(tmp_path / f"{first}.ts", 60, first=first) for first in (0, 60)]
    (tmp_path / "joined.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    clips.write(tmp_path / "frames.avi", 120, codec="mpeg4")
    clips.write(tmp_path / "every.mp4", 120)
    count = 120 if kind == "every.mp4" else 5
    found = decode(tmp_path / kind, count, threads=4)
    assert clips.numbers(found.pixels) == [119 * i // (count - 1) for i in range(count)]
    assert pools == []


def test_damaged_parts(tmp_path: Path, pools: list[Any]) -> None:
    path = clips.write(tmp_path / "clip.ts", 150, gop=8)
    data = bytearray(path.read_bytes())
    for place in range(len(data) // 3, len(data) // 2):
        data[place] ^= 0x55 * (place % 188 > 20)
    path.write_bytes(data)
    alone, found = decode(path, COUNT, threads=1), decode(path, COUNT, threads=3)
    assert torch.equal(found.timestamps_s, alone.timestamps_s)
    assert torch.equal(found.pixels, alone.pixels)
    assert alone.notes
    assert len(pools) == 1


def test_an_error_comes_after_the_frames_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clips.write(tmp_path / "clip.mkv", 150, gop=8)
    jump = Reader._jump

    def fails(reader: Reader, keyframe: Keyframe) -> None:
        if keyframe.order > 70:
            raise VideoError("the disk is gone")
        jump(reader, keyframe)

    monkeypatch.setattr(Reader, "_jump", fails)
    for threads in (2, 4):
        done: list[int] = []
        with pytest.raises(VideoError, match="the disk is gone"):
            decode(path, COUNT, threads=threads, progress=lambda count, _, done=done: done.append(count))
        assert done == [0, 1, 2, 3, 4]
    with FramePrefetcher(path, COUNT, threads=2) as ahead, pytest.raises(VideoError, match="the disk is gone"):
        ahead.result()


def test_a_file_that_cannot_be_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clips.write(tmp_path / "clip.mkv", 150, gop=8)
    with Reader(path) as reader:
        timeline = reader.timeline()
        path.unlink()
        with pytest.raises(VideoError, match=r"cannot be read again \(No such file"):
            list(parallel.frames_at(reader, timeline.pts[::20], timeline, threads=2))


def test_whoever_stops_taking_frames_ends_the_threads(tmp_path: Path, pools: list[Any]) -> None:
    path = clips.write(tmp_path / "clip.mp4", 150, gop=8)

    def stop(done: int, _: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decode(path, COUNT, threads=3, progress=stop)
    assert not any(thread.is_alive() for thread in pools[0].threads)
    with FramePrefetcher(path, COUNT, threads=3) as ahead:
        ahead.take(0, 1)
    assert not any(thread.is_alive() for thread in pools[1].threads)


def test_an_interrupt_while_waiting_for_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clips.write(tmp_path / "clip.mp4", 150, gop=8)
    interrupted = threading.Event()

    def waits(reader: Any, packet: Any) -> list[Any]:
        if not interrupted.is_set():
            interrupted.set()
            os.kill(os.getpid(), signal.SIGINT)
        assert reader._stop.wait(60)
        return []

    monkeypatch.setattr(Reader, "_frames_of", waits)
    # A process that a shell started in the background ignores the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            decode(path, COUNT, threads=2)
    finally:
        signal.signal(signal.SIGINT, before)


def test_few_frames_wait_for_those_before_them(tmp_path: Path, pools: list[Any]) -> None:
    path = clips.write(tmp_path / "clip.mp4", 300, gop=6)
    with Reader(path) as reader:
        timeline = reader.timeline()
        frames = parallel.frames_at(reader, timeline.pts[::15], timeline, threads=2)
        waiting = [pools[0]._waiting for _ in frames]
        assert len(waiting) == 20
        assert max(waiting) <= 2 * 4
        # Of two threads, whose packets are counted together.
        assert 20 <= reader.packets_decoded < 300


def test_parts_begin_at_a_jump() -> None:
    pts = list(range(0, 1000, 10))
    timeline = Timeline(pts, [Keyframe(order, 10 * order, 10 * order) for order in range(0, 100, 20)])
    assert split([0, 50, 250, 290, 410, 990], timeline) == [[0, 50], [250, 290], [410], [990]]
    assert split([110, 200], timeline) == [[110], [200]]
    assert split([120, 200], timeline) == [[120, 200]]  # decoding 8 packets is faster than a seek
    assert split(pts, timeline) == [pts]
    assert split([0, 990], Timeline(pts, timeline.keyframes, counted=True)) == [[0, 990]]
    assert split([0, 990], Timeline(pts, timeline.keyframes[:1])) == [[0, 990]]


@pytest.mark.parametrize("wrong", [0, -1, True, 2.0, "2"])
def test_numbers_of_threads_that_are_none(tmp_path: Path, wrong: Any) -> None:
    with pytest.raises(VideoError, match=r"threads=.*an integer >= 1, or None"):
        decode(tmp_path / "never-opened.mp4", 4, threads=wrong)
