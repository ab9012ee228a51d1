"""Frames of real files against decoding everything and picking."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch

from tangovlm.errors import VideoError
from tangovlm.video import Frames, decode, duration_s
from tangovlm.video.prefetch import FramePrefetcher
from tangovlm.video.reader import Reader
from tests.support import clips


def taken(frames: Frames) -> list[tuple[float, int]]:
    return list(zip(frames.timestamps_s.tolist(), clips.numbers(frames.pixels), strict=True))


def assert_same(actual: list[tuple[float, int]], expected: list[tuple[float, int]]) -> None:
    assert [number for _, number in actual] == [number for _, number in expected]
    assert [time for time, _ in actual] == pytest.approx([time for time, _ in expected], abs=1e-12)


def from_zero(frames: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """With times since the first frame."""
    return [(time - frames[0][0], number) for time, number in frames]


FILES = {
    "clip.mp4": {},
    "fragments.mp4": {"muxer": {"movflags": "frag_keyframe+empty_moov"}},
    "clip.mov": {},
    "clip.mkv": {},
    "clip.ts": {},
    "clip.flv": {},
    "clip.mpg": {"codec": "mpeg2video", "muxer": {}},
    "vp9.webm": {"codec": "libvpx-vp9", "b_frames": 0, "options": {"cpu-used": "8", "deadline": "realtime"}},
    "opengop.mp4": {"options": {"x264-params": "open-gop=1:bframes=3"}},
    "everykey.mp4": {"gop": 1},
    "onekey.mp4": {"gop": 1000},
    "plain.avi": {"codec": "mpeg4", "b_frames": 0},
    "sound.mp4": {"sound": True},
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("count", [1, 5, 16])
def test_the_same_frames_as_decoding_everything(tmp_path: Path, name: str, count: int) -> None:
    path = clips.write(tmp_path / name, 60, **FILES[name])
    everything = from_zero(clips.every_frame(path))
    expected = [everything[29]] if count == 1 else clips.on_screen(everything, count)
    assert_same(taken(decode(path, count)), expected)


@pytest.mark.parametrize("name", ["vfr.mp4", "vfr.mkv", "vfr.ts"])
def test_a_variable_rate_is_sampled_in_time(tmp_path: Path, name: str) -> None:
    times = [*range(0, 1000, 20), *range(1000, 5000, 250), *range(5000, 5400, 20)]
    path = clips.write(tmp_path / name, times)
    frames = decode(path, 9)
    assert_same(taken(frames), clips.on_screen(from_zero(clips.every_frame(path)), 9))
    assert np.ptp(np.diff(frames.timestamps_s.numpy())) < 0.5


@pytest.mark.parametrize("name", ["screen.mp4", "screen.mkv", "screen.ts"])
def test_a_picture_that_stands_still_is_taken_once(tmp_path: Path, name: str) -> None:
    """One picture in two seconds, then 25 in a second: no frames crowd beside the one that stands."""
    times = [*range(0, 8000, 2000), *range(8000, 9000, 40)]
    path = clips.write(tmp_path / name, times)
    frames = decode(path, 12)
    everything = from_zero(clips.every_frame(path))
    assert_same(taken(frames), [*everything[:4], *clips.on_screen(everything[4:], 8)])
    assert frames.notes == (
        "4 pictures are shown for long (up to 2.0 s): taken once, the other frames where pictures change",
    )
    assert decode(path, 3).notes == ()
    assert decode(path, 29).notes == ()


@pytest.mark.parametrize("name", ["late.mp4", "late.mkv", "late.ts", "late.flv"])
def test_times_start_at_zero_and_the_streams_own_start_is_told(tmp_path: Path, name: str) -> None:
    path = clips.write(tmp_path / name, [7000 + 40 * i for i in range(30)])
    frames = decode(path, 4)
    everything = clips.every_frame(path)
    assert_same(taken(frames), clips.on_screen(from_zero(everything), 4))
    assert frames.timestamps_s.dtype == torch.float64
    assert frames.timestamps_s[0] == 0
    assert frames.start_s == pytest.approx(everything[0][0], abs=1e-12)
    assert frames.start_s >= 7
    assert frames.duration_s == duration_s(path) == pytest.approx(1.2)
    assert frames.notes == ()
    with FramePrefetcher(path, 4) as ahead:
        assert torch.equal(ahead.timestamps_s, frames.timestamps_s)
        assert ahead.result().start_s == frames.start_s


def test_avi_with_b_frames_is_counted(tmp_path: Path) -> None:
    path = clips.write(tmp_path / "clip.avi", 60, codec="mpeg4")
    frames = decode(path, 7)
    shown = [number for _, number in clips.every_frame(path)]
    assert shown == sorted(shown)
    assert clips.numbers(frames.pixels) == [0, 9, 19, 29, 39, 49, 59]
    assert torch.allclose(frames.timestamps_s.diff(), torch.tensor(0.04).double() * torch.tensor([9, *[10] * 5]))
    assert any("counted" in note for note in frames.notes)


def test_all_frames_of_a_short_clip(tmp_path: Path) -> None:
    path = clips.write(tmp_path / "short.mp4", 5)
    frames = decode(path, 32)
    assert clips.numbers(frames.pixels) == [0, 1, 2, 3, 4]
    assert frames.notes == ("32 frames were requested, the clip has 5: all are used",)
    assert decode(path, 5).notes == ()


@pytest.mark.parametrize("name", FILES)
def test_the_duration_is_known_without_decoding(tmp_path: Path, name: str) -> None:
    path = clips.write(tmp_path / name, 60, **FILES[name])
    assert duration_s(path) == decode(path, 3).duration_s


def test_rate_and_duration_are_the_files_own(tmp_path: Path) -> None:
    frames = decode(clips.write(tmp_path / "clip.mkv", 50), 3)
    assert frames.fps == pytest.approx(25)
    assert frames.duration_s == pytest.approx(2)
    single = decode(clips.write(tmp_path / "one.mp4", 1), 3)
    assert single.fps is None
    assert single.duration_s == pytest.approx(0.04)
    assert single.pixels.shape == (1, 3, clips.HEIGHT, clips.WIDTH)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.ts", "clip.flv"])
def test_seeking_spares_the_packets_between(tmp_path: Path, name: str) -> None:
    path = clips.write(tmp_path / name, 600, gop=20)
    with Reader(path) as reader:
        timeline = reader.timeline()
        assert reader.packets_decoded == 0
        times = [timeline.pts[i] for i in (0, 205, 413, 599)]
        pictures = [frame.to_ndarray(format="rgb24") for frame in reader.frames_at(times, timeline)]
        delay = 8 + torch.get_num_threads() + (reader.stream.codec_context.thread_count or 16)
    assert [clips.number(picture) for picture in pictures] == [0, 205, 413, 599]
    assert reader.packets_decoded <= 4 * (20 + delay) < 600


def test_near_frames_are_decoded_through(tmp_path: Path) -> None:
    path = clips.write(tmp_path / "clip.mp4", 60, gop=4)
    with Reader(path) as reader:
        timeline = reader.timeline()
        list(reader.frames_at(list(timeline.pts[::3]), timeline))
        assert reader.packets_decoded == 60


@pytest.mark.parametrize("ticks", [-(10**6), 10**6, None])
def test_a_seek_that_lands_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ticks: int | None) -> None:
    """Too early, too late or not at all: the frames stay the same."""
    path = clips.write(tmp_path / "clip.mkv", 300)
    expected = taken(decode(path, 4))
    seek = Reader._seek

    def astray(reader: Reader, wanted: int | None) -> bool:
        return seek(reader, wanted) if wanted is None else ticks is not None and seek(reader, wanted + ticks)

    monkeypatch.setattr(Reader, "_seek", astray)
    assert_same(taken(decode(path, 4)), expected)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
def test_frames_are_upright(tmp_path: Path, degrees: int, mirrored: bool) -> None:
    """The file says: turn counter-clockwise, then mirror left and right."""
    path = clips.write(tmp_path / "turned.mp4", 3, turn=(degrees, mirrored))
    expected = np.rot90(clips.drawing(2), degrees // 90)
    if mirrored:
        expected = expected[:, ::-1]
    for size in (None, (40, 72)):
        picture = decode(path, 3, size=size).pixels[2].permute(1, 2, 0).numpy()
        if size is None:
            assert picture.shape == expected.shape
            assert np.abs(picture.astype(int) - expected).mean() < 12
        else:
            assert picture.shape == (40, 72, 3)
            rows = np.arange(40) * expected.shape[0] // 40
            columns = np.arange(72) * expected.shape[1] // 72
            assert np.abs(picture.astype(int) - expected[rows][:, columns]).mean() < 25


def test_the_turn_agrees_with_pyav(tmp_path: Path) -> None:
    path = clips.write(tmp_path / "turned.mp4", 2, turn=(90, False))
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        expected = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
    assert np.abs(decode(path, 2).pixels[0].permute(1, 2, 0).numpy().astype(int) - expected).mean() < 3


def test_frames_are_scaled_while_decoding(tmp_path: Path) -> None:
    path = clips.write(tmp_path / "clip.mp4", 20)
    frames = decode(path, 6, size=(112, 110))
    assert frames.pixels.shape == (6, 3, 112, 110)
    assert frames.pixels.dtype == torch.uint8
    assert frames.pixels.is_contiguous()
    assert clips.numbers(frames.pixels) == clips.numbers(decode(path, 6).pixels)


def test_a_size_that_depends_on_the_number_of_frames(tmp_path: Path) -> None:
    """Of those that are taken, of a clip that has fewer than were asked for too."""
    path, asked = clips.write(tmp_path / "clip.mp4", 5), []

    def fit(height: int, width: int, frames: int) -> tuple[int, int]:
        asked.append((height, width, frames))
        return 8 * frames, 16

    own = tuple(decode(path, 1).pixels.shape[-2:])
    assert decode(path, 3, fit=fit).pixels.shape == (3, 3, 24, 16)
    assert decode(path, 9, fit=fit).pixels.shape == (5, 3, 40, 16)
    assert asked == [(*own, 3), (*own, 5)]
    with FramePrefetcher(path, 3, fit=fit) as ahead:
        assert torch.equal(ahead.result().pixels, decode(path, 3, size=(24, 16)).pixels)


def test_the_same_pixels_on_every_run(tmp_path: Path) -> None:
    path = clips.write(tmp_path / "clip.mp4", 40)
    assert torch.equal(decode(path, 9, size=(48, 48)).pixels, decode(path, 9, size=(48, 48)).pixels)


def test_no_more_pictures_in_memory_than_chosen(tmp_path: Path) -> None:
    """Frames reach the result one by one, already small: the reader is a generator that keeps two of them."""
    path = clips.write(tmp_path / "clip.mp4", 100)
    with Reader(path) as reader:
        timeline = reader.timeline()
        steps = reader.frames_at(list(timeline.pts), timeline)
        next(steps)
        after_one = reader.packets_decoded
        next(steps)
    assert after_one < 60
    assert reader.packets_decoded <= after_one + 4


def test_a_frame_size_that_changes_within_the_clip(tmp_path: Path) -> None:
    first, second = tmp_path / "small.ts", tmp_path / "large.ts"
    clips.write(first, 20)
    with av.open(str(second), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 2 * clips.WIDTH, 2 * clips.HEIGHT, "yuv420p"
        stream.codec_context.time_base = clips.TICK
        for i in range(20, 40):
            frame = av.VideoFrame.from_ndarray(clips.drawing(i).repeat(2, 0).repeat(2, 1), format="rgb24")
            frame.pts, frame.time_base = 40 * i + 1000, clips.TICK
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    joined = tmp_path / "joined.ts"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    frames = decode(joined, 40)
    assert frames.pixels.shape[2:] == (clips.HEIGHT, clips.WIDTH)
    assert clips.numbers(frames.pixels) == list(range(40))
    assert any("size changes" in note for note in frames.notes)


def test_progress_counts_to_the_end(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    decode(clips.write(tmp_path / "clip.mp4", 20), 4, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]


def test_damage_inside_costs_frames_not_the_clip(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = clips.write(tmp_path / "clip.mp4", 60, gop=10)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for packet in packets[20:30]:
        data[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    path.write_bytes(data)
    frames = decode(path, 60)
    assert 45 <= len(frames.pixels) < 60
    assert (frames.timestamps_s.diff() > 0).all()
    assert any("could not be decoded" in note for note in frames.notes)
    for packet in packets:
        data[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    path.write_bytes(data)
    with pytest.raises(VideoError, match="cannot be decoded"):
        decode(path, 8)
    assert capfd.readouterr() == ("", "")


def test_a_matroska_file_cut_short_is_used_and_said(tmp_path: Path) -> None:
    path = clips.write(tmp_path / "clip.mkv", 250)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    frames = decode(path, 8)
    assert len(frames.pixels) == 8
    assert any("may be truncated" in note for note in frames.notes)


@pytest.mark.parametrize("size", [(0, 10), (10,), (10, 10, 3), (2.0, 3.0), (10**5, 10**5), (True, 4)])
def test_a_size_that_is_none(tmp_path: Path, size: tuple[int, int]) -> None:
    with pytest.raises(VideoError, match="size="):
        decode(tmp_path / "never-opened.mp4", 4, size=size)
