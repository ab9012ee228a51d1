"""Damaged files: how many frames show it, and no false alarms; expectations by decoding everything with and without."""

import re
import threading
from collections.abc import Collection, Iterator
from contextlib import suppress
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from tangovlm.errors import VideoError
from tangovlm.video import Frames, decode
from tangovlm.video.reader import Reader

COUNT, GOP = 48, 12
X264 = {"preset": "veryfast"}


def write(
    path: Path, codec: str = "libx264", *, b_frames: int = 2, gop: int = GOP, noise: int = 1, **options: str
) -> Path:
    """`COUNT` frames of a moving texture, in which damage is visible; `noise` makes all kinds of frames large."""
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 200, (24, 40, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = gop, b_frames
        stream.codec_context.bit_rate = 600_000
        for i in range(COUNT):
            picture = np.roll(texture, 3 * i, 1) + rng.integers(0, noise, texture.shape, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def damaged(source: Path, path: Path, places: Collection[int], *, whole: bool = False) -> Path:
    """The same packets, in those at `places` (in decoding order) a few bytes flipped, or the `whole` packet lost."""
    with av.open(str(source)) as read, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(read.streams.video[0])
        for order, packet in enumerate(packet for packet in read.demux(video=0) if packet.size):
            if order in places:
                data = bytearray(bytes(packet))
                start = 8 if whole else len(data) // 3
                for place in range(start, len(data), 1 if whole else max(1, len(data) // 40)):
                    data[place] ^= 0x5A
                broken = av.Packet(bytes(data))
                broken.pts, broken.dts, broken.time_base = packet.pts, packet.dts, packet.time_base
                broken.is_keyframe, packet = packet.is_keyframe, broken
            packet.stream = stream
            container.mux(packet)
    return path


def keyframes(path: Path) -> list[int]:
    """Places of the keyframes in decoding order."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    return [order for order, packet in enumerate(packets) if packet.is_keyframe]


def pictures(path: Path) -> dict[int, np.ndarray]:
    """All frames by their place, decoded straight through in one thread; without those that cannot be decoded."""
    found = {}
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        start = None
        for packet in container.demux(stream):
            with suppress(av.FFmpegError):
                for frame in packet.decode():
                    start = frame.pts if start is None else start
                    place = round(25 * (frame.pts - start) * stream.time_base)
                    found[place] = frame.to_ndarray(format="rgb24").astype(int)
    return found


def visible(healthy: Path, path: Path) -> list[int]:
    """The places of the frames that are missing or look different."""
    broken = pictures(path)
    pairs = ((place, whole, broken.get(place)) for place, whole in pictures(healthy).items())
    return [place for place, whole, other in pairs if other is None or np.abs(whole - other).max() > 40]


def said(frames: Frames) -> int:
    counts = [re.fullmatch(r"(\d+) of (\d+) frames may show damage: .*", note) for note in frames.notes]
    (found,) = [count for count in counts if count]
    assert int(found[2]) == len(frames.pixels)
    return int(found[1])


KINDS: dict[str, dict[str, Any]] = {
    "clip.mp4": X264,
    "clip.mkv": X264,
    "clip.ts": X264,
    "clip.flv": X264,
    "mpeg2.mpg": {"codec": "mpeg2video"},
    "mpeg2.ts": {"codec": "mpeg2video"},
    "mpeg4.mp4": {"codec": "mpeg4"},
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("threads", [1, 4])
def test_damage_of_a_keyframe_lasts_until_the_next(
    tmp_path: Path, name: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewind = Reader._rewind

    def rewound(reader: Reader) -> None:
        rewind(reader)
        reader.stream.codec_context.thread_count = threads

    monkeypatch.setattr(Reader, "_rewind", rewound)
    healthy = write(tmp_path / name, **KINDS[name])
    second, third = keyframes(healthy)[1:3]
    path = damaged(healthy, tmp_path / f"damaged-{name}", [second])
    shows = visible(healthy, path)
    assert shows
    frames = decode(path, COUNT)
    missing = COUNT - len(frames.pixels)  # where the decoder does not fill the gap
    assert missing <= 1
    # B-frames around the keyframes may depend on it, and those around a frame that is lost on that.
    assert len(shows) - missing <= said(frames) <= third - second + 5
    assert decode(healthy, COUNT).notes == ()


@pytest.mark.parametrize("name", ["clip.mp4", "clip.ts", "mpeg2.mpg"])
def test_of_some_frames_those_that_show_damage_are_counted(tmp_path: Path, name: str) -> None:
    """Frames that are far apart are decoded from their keyframes on."""
    healthy = write(tmp_path / name, **KINDS[name])
    path = damaged(healthy, tmp_path / f"damaged-{name}", keyframes(healthy)[1:2])
    shows = visible(healthy, path)
    for count in (4, 6, 9):
        places = [(COUNT - 1) * i // (count - 1) for i in range(count)]
        frames = decode(path, count)
        seen = sum(place in shows for place in places)
        close = sum(min(abs(place - each) for each in shows) <= 2 for place in places)
        assert seen <= (said(frames) if frames.notes else 0) <= close


def test_damage_of_a_frame_on_which_none_depends_is_its_own(tmp_path: Path) -> None:
    """Of H.264, whose B-frames may be references, by the headers of its packets; of MPEG-2 all B-frames are none."""
    for name, options in {
        "clip.mp4": {"x264-params": "b-pyramid=none:b-adapt=0", **X264},
        "clip.ts": {"x264-params": "b-pyramid=none:b-adapt=0", **X264},
        "clip.mpg": {"codec": "mpeg2video"},
    }.items():
        healthy = write(tmp_path / name, noise=50, **options)
        with av.open(str(healthy)) as container:
            b_frames = {f.pts for f in container.decode(video=0) if f.pict_type == av.video.frame.PictureType.B}
        with av.open(str(healthy)) as container:
            packets = [packet for packet in container.demux(video=0) if packet.size]
        b_packets = [order for order, packet in enumerate(packets) if packet.pts in b_frames]
        counted = 0
        for places in (b_packets[first::4] for first in range(4)):
            path = damaged(healthy, tmp_path / f"damaged-{name}", places)
            assert len(visible(healthy, path)) == len(places) >= 4
            frames = decode(path, COUNT)
            found = said(frames) if frames.notes else 0
            # Of MPEG-2 the frames beside the damaged one may be counted too.
            assert found <= len(places) * (3 if name == "clip.mpg" else 1)
            counted += found
        # H.264 has code in which flipped bytes are valid; how many of these are depends on the encoder's processor.
        assert counted >= (1 if name != "clip.mpg" else 8)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.ts", "mpeg4.mp4"])
def test_a_file_of_which_most_frames_show_damage_is_refused(tmp_path: Path, name: str) -> None:
    healthy = write(tmp_path / name, **KINDS[name])
    path = damaged(healthy, tmp_path / f"damaged-{name}", keyframes(healthy))
    with pytest.raises(VideoError, match="of the 16 chosen frames may show damage; copy the file again") as caught:
        decode(path, 16)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("lost", [COUNT - 1, COUNT - 2, COUNT - 4])
def test_a_lost_frame_at_the_end_costs_no_other(tmp_path: Path, lost: int) -> None:
    """The decoder still holds several frames when it is flushed, and returns an error in between."""
    healthy = write(tmp_path / "clip.mp4", gop=1, b_frames=0, **X264)
    path = damaged(healthy, tmp_path / "damaged.mp4", [lost], whole=True)
    frames = decode(path, COUNT)
    times = [round(25 * time) for time in frames.timestamps_s.tolist()]
    assert set(range(COUNT)) - set(times) <= {lost}
    expected = decode(healthy, COUNT).pixels
    assert all(torch.equal(frames.pixels[i], expected[time]) for i, time in enumerate(times) if time != lost)
    assert frames.notes


def test_frames_of_a_video_with_intra_refresh_are_complete(tmp_path: Path) -> None:
    """Its keyframes have only a column of the picture; it is complete when all columns were sent."""
    options = {"x264-params": "intra-refresh=1:keyint=12:bframes=0:ref=1:scenecut=0", **X264}
    path = write(tmp_path / "clip.mkv", b_frames=0, **options)
    expected = pictures(path)
    for place in range(24, 34):
        with Reader(path) as reader:
            timeline = reader.timeline()
            (frame,) = reader.frames_at([timeline.pts[place]], timeline)
            assert frame.pts == timeline.pts[place]
            assert np.abs(frame.to_ndarray(format="rgb24") - expected[place]).max() < 40
            assert reader.count_damaged([timeline.pts[place]], timeline) == 0


HEALTHY: dict[str, dict[str, Any]] = {
    "opengop.ts": {"x264-params": "open-gop=1:bframes=3:b-pyramid=normal:ref=4", **X264},
    "pyramid.mkv": {"x264-params": "bframes=8:b-pyramid=normal:b-adapt=0:ref=8", "b_frames": 8, **X264},
    "refresh.ts": {"x264-params": "intra-refresh=1:bframes=0:ref=1", "b_frames": 0, **X264},
    "interlaced.ts": {"x264-params": "tff=1", **X264},
    "slices.mp4": {"x264-params": "slices=4", **X264},
    "onekey.mp4": {"gop": 1000, **X264},
    "mpeg1.mpg": {"codec": "mpeg1video"},
    "mpeg4.mkv": {"codec": "mpeg4"},
    "wmv2.wmv": {"codec": "wmv2", "b_frames": 0},
    "mjpeg.avi": {"codec": "mjpeg", "b_frames": 0},
    "ffv1.mkv": {"codec": "ffv1", "b_frames": 0},
    "vp8.webm": {"codec": "libvpx", "b_frames": 0, "auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "8"},
    "vp9.webm": {"codec": "libvpx-vp9", "b_frames": 0, "auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "8"},
}


@pytest.mark.parametrize("name", HEALTHY)
def test_no_alarm_about_healthy_files(tmp_path: Path, name: str) -> None:
    options = dict(HEALTHY[name])
    pixel_format = "yuvj420p" if options.get("codec") == "mjpeg" else None
    if pixel_format:
        options["strict"] = "unofficial"
    path = write(tmp_path / name, **options)
    for count in (1, 3, 5, COUNT):
        assert decode(path, count).notes == ()


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_no_alarm_about_recordings_that_are_joined_or_begin_between_keyframes(tmp_path: Path, codec: str) -> None:
    whole = write(tmp_path / "whole.ts", codec).read_bytes()
    joined, begun = tmp_path / "joined.ts", tmp_path / "begun.ts"
    joined.write_bytes(whole + whole)
    begun.write_bytes(whole[: 2 * 188] + whole[len(whole) // 188 // 3 * 188 :])
    for path in (joined, begun):
        for count in (1, 4, 9, 2 * COUNT):
            assert not [note for note in decode(path, count).notes if "damage" in note]


CONTAINERS: dict[str, dict[str, Any]] = {
    name: KINDS[name] for name in ("clip.mp4", "clip.mkv", "clip.ts", "clip.flv", "mpeg2.mpg")
} | {"mpeg4.avi": {"codec": "mpeg4", "b_frames": 0}}


def variants(data: bytes, packets: list[int], rng: np.random.Generator) -> Iterator[tuple[bytes, bool]]:
    """Cut at and beside the boundaries of packets; with flipped bytes in the header, the end, and, True, everywhere."""
    for place in packets[1 :: len(packets) // 6]:
        for shift in (-1, 0, 5):
            yield data[: place + shift], False
    first = packets[0] + 20
    for begin, end, flips in [(0, 64, 2), (0, 600, 6), (len(data) - 600, len(data), 6), (first, len(data), 60)]:
        for _ in range(4):
            changed = bytearray(data)
            for place in rng.integers(begin, end, flips):
                changed[place] ^= int(rng.integers(1, 256))
            yield bytes(changed), flips == 60


@pytest.mark.parametrize("name", CONTAINERS)
def test_damaged_containers_are_read_and_said_or_refused(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, **CONTAINERS[name])
    data = path.read_bytes()
    with av.open(str(path)) as container:
        packets = [packet.pos for packet in container.demux(video=0) if packet.size and packet.pos is not None]
    for variant, everywhere in variants(data, packets, np.random.default_rng(1)):
        path.write_bytes(variant)
        frames = read(path)
        if frames is None:
            continue
        assert len(frames.pixels) == len(frames.timestamps_s) >= 1
        assert all(a < b for a, b in pairwise(frames.timestamps_s.tolist()))
        # A single flipped byte may be valid code, of another picture; of sixty not all are.
        assert frames.notes or not everywhere


def read(path: Path) -> Frames | None:
    """The frames, or None if the file is refused in one line; fails if that does not end."""
    results: list[Frames | BaseException] = []

    def run() -> None:
        try:
            results.append(decode(path, 8))
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(120)
    assert results, "decoding does not end"
    (result,) = results
    if isinstance(result, Frames):
        return result
    assert isinstance(result, VideoError), result
    assert "\n" not in str(result)
    return None
