"""Clocks that restart, jump or wrap around: all frames in order of the file."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tangovlm.video import decode, duration_s
from tangovlm.video.continuity import ClockRules, Stamp, continuous
from tangovlm.video.reader import Reader
from tangovlm.video.source import open_video
from tests.support import clips

RULES = ClockRules(wrap=1 << 33, back=0, gap=900_000, still=54_000_000)
STEP = 3600


def joined(path: Path, *parts: Path) -> Path:
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


@pytest.mark.parametrize("lengths", [(60, 60), (150, 20), (20, 150)])
@pytest.mark.parametrize(("kind", "codec"), [("ts", "libx264"), ("ts", "mpeg2video"), ("vob", "mpeg2video")])
def test_recordings_joined_byte_by_byte(tmp_path: Path, kind: str, codec: str, lengths: tuple[int, int]) -> None:
    parts = [
        clips.write(tmp_path / f"{first}.{kind}", count, codec=codec, first=first)
        for first, count in zip((0, 500), lengths, strict=True)
    ]
    path = joined(tmp_path / f"joined.{kind}", *parts)
    numbers = [number for _, number in clips.every_frame(path)]
    assert numbers == [*range(lengths[0]), *range(500, 500 + lengths[1])]
    frames = decode(path, 1000)
    assert clips.numbers(frames.pixels) == numbers
    # In program streams FFmpeg computes the times of the frames that have none, at the end of a part a little late.
    exact = {"abs": 0.09 if kind == "vob" else 1e-6}
    assert frames.timestamps_s.tolist() == pytest.approx([0.04 * i for i in range(len(numbers))], **exact)
    assert frames.duration_s == duration_s(path) == pytest.approx(0.04 * len(numbers), **exact)
    assert "restarts or jumps 1 time:" in frames.notes[-1]
    few = decode(path, 8)
    # Every frame lasts equally long.
    places = [numbers.index(number) for number in clips.numbers(few.pixels)]
    assert places == pytest.approx([(len(numbers) - 1) * i / 7 for i in range(8)], abs=3 if kind == "vob" else 1)


@pytest.mark.parametrize("starts_s", [(0, 100), (0, 3600), (100, 0), (3600, 0), (90_000, 5), (5, 95_442)])
def test_jumps_forwards_and_back(tmp_path: Path, starts_s: tuple[int, int]) -> None:
    """Also those that a clock of 33 bits could take for a wrap."""
    parts = [
        clips.shifted(clips.write(tmp_path / f"early{first}.ts", 40, first=first), tmp_path / f"{first}.ts", start)
        for first, start in zip((0, 40), starts_s, strict=True)
    ]
    frames = decode(joined(tmp_path / "joined.ts", *parts), 100)
    assert clips.numbers(frames.pixels) == list(range(80))
    assert frames.timestamps_s.tolist() == pytest.approx([0.04 * i for i in range(80)])
    assert len(frames.notes) == 2  # fewer than 100 frames, and the jump


@pytest.mark.parametrize("b_frames", [0, 2])
@pytest.mark.parametrize("overlap", [0, 1, 2, 3, 5, 11])
def test_parts_that_overlap_by_few_frames(tmp_path: Path, overlap: int, b_frames: int) -> None:
    times = [1000 + 40 * i for i in range(12)], [1000 + 40 * (12 - overlap + i) for i in range(12)]
    parts = [
        clips.write(tmp_path / f"{first}.ts", at, first=first, gop=5, b_frames=b_frames)
        for first, at in zip((0, 100), times, strict=True)
    ]
    path = joined(tmp_path / "joined.ts", *parts)
    frames = decode(path, 100)
    assert clips.numbers(frames.pixels) == [number for _, number in clips.every_frame(path)]
    assert clips.numbers(frames.pixels) == [*range(12), *range(100, 112)]
    assert frames.timestamps_s.tolist() == pytest.approx([0.04 * i for i in range(24)])
    jumps = [note for note in frames.notes if "restarts or jumps 1 time:" in note]
    assert len(jumps) == (overlap > 0)


@pytest.mark.parametrize("start_ms", [200, 100_000])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_short_part_in_the_middle(tmp_path: Path, count: int, start_ms: int) -> None:
    outer = clips.write(tmp_path / "outer.ts", 12)
    inner = clips.write(tmp_path / "inner.ts", [start_ms + 40 * i for i in range(count)], first=50)
    path = joined(tmp_path / "joined.ts", outer, inner, outer)
    frames = decode(path, 100)
    assert clips.numbers(frames.pixels) == [*range(12), *range(50, 50 + count), *range(12)]
    assert frames.timestamps_s.tolist() == pytest.approx([0.04 * i for i in range(24 + count)])
    assert "restarts or jumps 2 times:" in frames.notes[-1]


@pytest.mark.parametrize("b_frames", [0, 2])
@pytest.mark.parametrize("interval_s", [9, 12, 20, 60])
def test_a_low_rate_is_no_jump(tmp_path: Path, interval_s: int, b_frames: int) -> None:
    times = [1000 * interval_s * i for i in range(10)]
    frames = decode(clips.write(tmp_path / "clip.ts", times, b_frames=b_frames, gop=4), 10)
    assert clips.numbers(frames.pixels) == list(range(10))
    assert frames.timestamps_s.tolist() == pytest.approx([interval_s * i for i in range(10)])
    assert frames.duration_s == pytest.approx(10 * interval_s)
    assert frames.notes == ()


@pytest.mark.parametrize("b_frames", [0, 2])
@pytest.mark.parametrize("gop", [1, 12])
def test_pictures_that_stand_still_for_long(tmp_path: Path, gop: int, b_frames: int) -> None:
    """In a recording of a screen: in the middle, and before the last frame."""
    times = [0, 40, 80, 30_000, 30_040, 30_080, 75_000, 75_040, *range(400_000, 401_000, 40), 440_000]
    frames = decode(clips.write(tmp_path / "clip.ts", times, b_frames=b_frames, gop=gop), 100)
    assert clips.numbers(frames.pixels) == list(range(len(times)))
    assert frames.timestamps_s.tolist() == pytest.approx([time / 1000 for time in times])
    assert len(frames.notes) == 1  # fewer than 100 frames


def test_frames_with_damaged_times_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clips.write(tmp_path / "clip.ts", 60)
    healthy = Reader._demux

    def damaged(reader: Reader, order: int = 0) -> Any:
        for place, packet in healthy(reader, order):
            if place == 20 and packet.pts is not None and packet.dts is not None:
                packet.pts, packet.dts = packet.pts + (1 << 31), packet.dts + (1 << 31)
            yield place, packet

    monkeypatch.setattr(Reader, "_demux", damaged)
    frames = decode(path, 59)
    assert len(set(range(60)) - set(clips.numbers(frames.pixels))) == 1
    assert frames.notes == ("1 frames of the file have damaged times and are left out",)


def test_a_clock_that_wraps_around_runs_on(tmp_path: Path) -> None:
    early = clips.write(tmp_path / "early.ts", 80)
    path = clips.shifted(early, tmp_path / "clip.ts", 2**33 / 90_000 - 1.6)
    frames = decode(path, 9)
    assert clips.numbers(frames.pixels) == clips.numbers(decode(early, 9).pixels)
    assert frames.duration_s == pytest.approx(3.2)
    assert frames.notes == ()


def test_a_long_gap_in_matroska_is_a_frame_that_is_shown_so_long(tmp_path: Path) -> None:
    path = clips.write(tmp_path / "clip.mkv", [*range(0, 800, 40), *range(3_600_000, 3_600_800, 40)])
    frames = decode(path, 1000)
    assert clips.numbers(frames.pixels) == list(range(40))
    assert frames.timestamps_s[20] == 3600
    assert decode(path, 40).notes == ()


def test_packets_before_the_keyframe_are_not_decoded(tmp_path: Path) -> None:
    parts = [clips.write(tmp_path / f"{first}.ts", 200, first=first) for first in (0, 200)]
    with Reader(joined(tmp_path / "joined.ts", *parts)) as reader:
        timeline = reader.timeline()
        (frame,) = reader.frames_at([timeline.pts[-1]], timeline)
        assert clips.number(frame.to_ndarray(format="rgb24")) == 399
        assert reader.packets_decoded <= 12


class LateStream:
    """A container whose eleventh packet is of a stream that was not there when the file was opened."""

    def __init__(self, container: Any) -> None:
        self.container = container
        self.left = 10

    def __getattr__(self, name: str) -> Any:
        return getattr(self.container, name)

    def demux(self, stream: Any) -> Any:
        for packet in self.container.demux(stream):
            yield packet
            self.left -= 1
            if self.left == 0:
                raise IndexError("list index out of range")


@pytest.mark.parametrize(("kind", "said"), [("ts", True), ("flv", False)])
def test_packets_of_an_unknown_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, said: bool) -> None:
    """They are skipped, and said where streams do not begin late, as they may in FLV."""
    path = clips.write(tmp_path / f"clip.{kind}", 60)

    def opened(file: Path, index: int | None = None) -> Any:
        container, stream = open_video(file, index)
        return LateStream(container), stream

    monkeypatch.setattr("tangovlm.video.packets.open_video", opened)
    frames = decode(path, 60)
    assert clips.numbers(frames.pixels) == list(range(60))
    assert frames.notes == (("1 packets of streams that the file does not announce were skipped",) if said else ())


def stamps(*dts: int) -> list[Stamp]:
    return [Stamp(time + 2 * STEP, time) for time in dts]


def test_a_continuous_clock_is_left_alone() -> None:
    assert continuous(stamps(*range(0, 50 * STEP, STEP)), RULES, STEP) is None
    slow = stamps(*range(0, 10 * 10**7, 10**7))  # a frame in 111 s, known to last so long from the second on
    assert continuous(slow, ClockRules(None, 0, None), STEP) is None


def test_a_part_begins_after_the_last_frame_of_the_one_before() -> None:
    """Whatever the order of its frames, and the distance of its decoding and presentation times."""
    first = [Stamp(pts * STEP, dts * STEP) for dts, pts in enumerate([2, 5, 3, 4, 8, 6, 7])]
    second = [Stamp(pts * STEP, dts * STEP) for dts, pts in enumerate([1, 0, 2, 3])]
    found = continuous([*first, *second], RULES, STEP)
    assert found is not None
    assert [(time or 0) // STEP for time in found.pts] == [2, 5, 3, 4, 8, 6, 7, 10, 9, 11, 12]
    assert found.jumps == 1


@pytest.mark.parametrize("wrong", [10**7, -(10**7), 2**31, 2**32])
def test_damaged_times_of_single_packets_are_no_jump(wrong: int) -> None:
    healthy = stamps(*range(10**8, 10**8 + 30 * STEP, STEP))
    for field in ("dts", "pts", "both"):
        damaged = list(healthy)
        pts, dts = healthy[11].pts or 0, healthy[11].dts or 0
        damaged[11] = Stamp(pts + wrong * (field != "dts"), dts + wrong * (field != "pts"))
        found = continuous(damaged, RULES, STEP)
        assert found is not None
        lost = field != "dts"
        assert (found.pts[11], found.jumps, found.damaged) == (None if lost else pts, 0, int(lost))
        times = [time for time in found.pts if time is not None]
        assert times == [stamp.pts for n, stamp in enumerate(healthy) if n != 11 or not lost]
        assert all(a < b for a, b in pairwise(times))
