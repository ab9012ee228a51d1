"""What is not decoded: one clear line each, and no file opened but the one that was named."""

import os
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import av
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tangovlm.errors import VideoError
from tangovlm.video import decode
from tangovlm.video.source import open_video
from tests.support import clips


def refused(path: str | os.PathLike[str], why: str, frames: int = 4) -> None:
    with pytest.raises(VideoError, match=why) as caught:
        decode(path, frames)
    assert "\n" not in str(caught.value)


def within(seconds: float, action: Callable[[], None]) -> None:
    """Fail where `action` hangs, as opening a pipe that nobody writes to does."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "another file was opened"
    for failure in failures:
        raise failure


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """Opening it to read never returns."""
    path = tmp_path / "other.mp4"
    os.mkfifo(path)
    return path


def test_paths_that_name_no_video(tmp_path: Path) -> None:
    refused(tmp_path / "missing.mp4", "No such file")
    refused(tmp_path, "a folder without pictures")
    refused("/dev/null", "not a regular file")
    refused("nul\0byte.mp4", "cannot be read")
    refused(b"bytes.mp4", "must be str or os.PathLike")  # type: ignore[arg-type]
    refused(7, "must be str or os.PathLike")  # type: ignore[arg-type]
    empty = tmp_path / "empty.mp4"
    empty.touch()
    refused(empty, "is empty")


@pytest.mark.parametrize("url", ["http://host/clip.mp4", "https://h/c", "rtsp://h/c", "file:///c.mp4", "tcp://h:1"])
def test_urls(url: str) -> None:
    refused(url, "URLs are not opened")


@pytest.mark.parametrize("name", ["concat:a.mp4|b.mp4", "pipe:0", "data:video/mp4;base64,AAAA", "subfile,,start,0:a"])
def test_protocols_of_ffmpeg_are_file_names(name: str) -> None:
    refused(name, "No such file")


def test_files_that_are_no_video(tmp_path: Path) -> None:
    text = tmp_path / "notes.mp4"
    text.write_text("no video at all\n" * 200)
    refused(text, "not a video")
    noise = tmp_path / "noise.mp4"
    noise.write_bytes(bytes((i * i * 37 + i // 7) % 251 for i in range(50_000)))
    refused(noise, "not a video")
    refused(clips.sound_only(tmp_path / "sound.m4a"), "no video stream .found: audio")


def test_a_picture_pattern(tmp_path: Path) -> None:
    for name in ("shot%d.png", "shot1.png"):
        av.VideoFrame.from_ndarray(clips.drawing(3), format="rgb24").to_image().save(tmp_path / name, "PNG")
        refused(tmp_path / name, "not a video")


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_an_mp4_cut_before_its_index(tmp_path: Path, share: float) -> None:
    path = clips.write(tmp_path / "clip.mp4", 100)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    refused(path, "truncated")


def test_an_mp4_cut_within_its_index_or_its_first_frame(tmp_path: Path) -> None:
    data = clips.write(tmp_path / "clip.mp4", 100, muxer={"movflags": "faststart"}).read_bytes()
    for kept in (data.index(b"moov") + 40, data.index(b"mdat") + 30):
        path = tmp_path / f"{kept}.mp4"
        path.write_bytes(data[:kept])
        refused(path, "truncated")


@pytest.mark.parametrize("kept", [8, 12, 15])
def test_an_mp4_cut_within_the_head_of_a_box(tmp_path: Path, kept: int) -> None:
    path = clips.write(tmp_path / "clip.mp4", 10, muxer={"movflags": "faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"moov") - 4 + kept])
    refused(path, "truncated")


@pytest.mark.parametrize(("name", "codec"), [("clip.mkv", "libx264"), ("clip.avi", "mpeg4")])
def test_other_files_of_which_little_is_left(tmp_path: Path, name: str, codec: str) -> None:
    path = clips.write(tmp_path / name, 10, codec=codec)
    path.write_bytes(path.read_bytes()[:100])
    refused(path, "damaged, copy it again")


def test_a_video_stream_without_frames(tmp_path: Path) -> None:
    path = tmp_path / "none.mp4"
    with av.open(str(path), "w", options={"movflags": "empty_moov"}) as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        container.start_encoding()
    refused(path, "has no frames|no video stream|index cannot be read")


@pytest.mark.parametrize("frames", [0, -3, True, 1.5])
def test_a_number_of_frames_that_is_none(tmp_path: Path, frames: int) -> None:
    refused(clips.write(tmp_path / "clip.mp4", 4), "must be an integer >= 1", frames)


def test_frames_of_too_many_pixels(tmp_path: Path) -> None:
    path = tmp_path / "huge.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=1, options={"qscale": "31"})
        stream.width, stream.height, stream.pix_fmt = 16000, 4002, "yuvj420p"
        container.mux(stream.encode(av.VideoFrame(16000, 4002, "yuvj420p")))
        container.mux(stream.encode(None))
    refused(path, "16000 x 4002 pixels; up to 64 megapixels are accepted")


def test_the_limit_on_pixels_is_told_from_the_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clips.write(tmp_path / "clip.mp4", 3)
    monkeypatch.setattr("tangovlm.video.source.MAX_PIXELS", clips.WIDTH * clips.HEIGHT - 1)
    refused(path, "frames of 160 x 64 pixels; up to")
    monkeypatch.setattr("tangovlm.video.source.MAX_PIXELS", clips.WIDTH * clips.HEIGHT)
    assert len(decode(path, 3).pixels) == 3


PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:10\n#EXTINF:2,\nother.mp4\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile other.mp4\n",
    "dash": '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period>'
    '<AdaptationSet><Representation id="0" bandwidth="1"><BaseURL>other.mp4</BaseURL></Representation>'
    "</AdaptationSet></Period></MPD>\n",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("name", ["list.mp4", "list.m3u8", "list.mpd", "list.ffconcat"])
def test_playlists_are_refused_and_not_followed(tmp_path: Path, pipe: Path, kind: str, name: str) -> None:
    path = tmp_path / name
    path.write_text(PLAYLISTS[kind])
    within(20, lambda: refused(path, "a playlist"))


@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("name", ["list.mp4", "list.m3u8", "list.mpd", "list.ffconcat"])
def test_ffmpeg_itself_would_not_follow_them(tmp_path: Path, pipe: Path, kind: str, name: str) -> None:
    """The second wall: the list of accepted containers, also where the first bytes did not give a playlist away."""
    path = tmp_path / name
    path.write_text(PLAYLISTS[kind])

    def attempt() -> None:
        with pytest.raises(VideoError):
            open_video(path)

    within(20, attempt)


def test_a_mov_whose_samples_lie_in_another_file(tmp_path: Path, pipe: Path) -> None:
    path = clips.write(tmp_path / "clip.mov", 10)
    path.write_bytes(_pointing_elsewhere(path.read_bytes(), pipe.name))
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 10

    def attempt() -> None:
        with suppress(VideoError):
            decode(path, 4)

    within(20, attempt)


def _pointing_elsewhere(data: bytes, name: str) -> bytes:
    """Replace the self-reference in `dref` by a Mac alias of a file beside, and let the boxes around it grow."""
    assert data.rindex(b"mdat") < data.rindex(b"moov")
    target = b"/" + name.encode()
    head = bytearray(150)
    head[130:134] = struct.pack(">HH", 1, 1)  # one folder up from either file is where both lie
    alias = bytes(head) + struct.pack(">HH", 2, len(target)) + target + b"\0" * (len(target) % 2) + b"\xff\xff\0\0"
    entry = struct.pack(">I4sI", 12 + len(alias), b"alis", 0) + alias
    place = data.rindex(b"dref") - 4
    size = struct.unpack(">I", data[place : place + 4])[0]
    box = struct.pack(">I4sII", 16 + len(entry), b"dref", 0, 1) + entry
    grown = bytearray(data[:place] + box + data[place + size :])
    for parent in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
        start = data.rindex(parent) - 4
        old = struct.unpack(">I", data[start : start + 4])[0]
        grown[start : start + 4] = struct.pack(">I", old + len(box) - size)
    return bytes(grown)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("healthy")
    return {name: clips.write(folder / name, 12).read_bytes() for name in ("a.mp4", "a.mkv", "a.ts")}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    name=st.sampled_from(["a.mp4", "a.mkv", "a.ts"]),
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=12),
    kept=st.floats(0.01, 1),
)
def test_damaged_files_give_frames_or_one_line(
    tmp_path: Path, healthy: dict[str, bytes], name: str, edits: list[tuple[float, int]], kept: float
) -> None:
    data = bytearray(healthy[name])
    for place, value in edits:
        data[int(place * len(data))] = value
    path = tmp_path / name
    path.write_bytes(data[: max(1, int(kept * len(data)))])
    try:
        frames = decode(path, 5, size=(8, 8))
    except VideoError:
        return
    assert frames.pixels.shape[1:] == (3, 8, 8)
    assert len(frames.pixels) == len(frames.timestamps_s) >= 1
    assert (frames.timestamps_s.diff() > 0).all()
