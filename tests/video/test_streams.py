"""Files with several video streams."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from av.stream import Disposition

from tangovlm.errors import VideoError
from tangovlm.video import FrameSampling, decode, duration_s
from tangovlm.video.prefetch import FramePrefetcher
from tests.support import clips

FRAMES = 40
Stream = tuple[int, int, Disposition]
NONE, DEFAULT = Disposition(0), Disposition.default


def write(path: Path, *streams: Stream) -> Path:
    """Streams of (scale, number of frames, disposition); the frames of stream i show numbers from 100 i on."""
    with av.open(str(path), "w") as container:
        made = []
        for scale, count, flags in streams:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = clips.WIDTH * scale, clips.HEIGHT * scale, "yuv420p"
            stream.disposition = flags
            made.append((stream, scale, count))
        for i in range(FRAMES):
            for place, (stream, scale, count) in enumerate(made):
                if i < count:
                    picture = clips.drawing(100 * place + i).repeat(scale, 0).repeat(scale, 1)
                    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                    frame.pts, frame.time_base = i, Fraction(1, 25)
                    container.mux(stream.encode(frame))
        for stream, _, _ in made:
            container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("kind", ["mp4", "mov", "mkv", "ts"])
@pytest.mark.parametrize("flags", [(NONE, DEFAULT), (NONE, NONE), (DEFAULT, NONE)])
def test_a_thumbnail_first(tmp_path: Path, kind: str, flags: tuple[Disposition, Disposition]) -> None:
    """Larger than the film, marked as default by the container or not: a still picture is not the film."""
    path = write(tmp_path / f"clip.{kind}", (2, 1, flags[0]), (1, FRAMES, flags[1]))
    frames = decode(path, 5)
    assert clips.numbers(frames.pixels) == [100, 109, 119, 129, 139]
    (note,) = frames.notes
    assert note == "the file has 2 video streams: stream 1 (160 x 64) is read, not stream 0 (320 x 128)"
    assert duration_s(path) == frames.duration_s == pytest.approx(1.6)
    still = decode(path, 1, stream=0)
    assert (clips.numbers(still.pixels), still.notes) == ([0], ())


@pytest.mark.parametrize(
    ("flags", "index"), [((NONE, NONE), 1), ((DEFAULT, DEFAULT), 1), ((DEFAULT, NONE), 0), ((NONE, DEFAULT), 1)]
)
def test_a_preview_first(tmp_path: Path, flags: tuple[Disposition, Disposition], index: int) -> None:
    path = write(tmp_path / "clip.mkv", (1, FRAMES, flags[0]), (2, FRAMES, flags[1]))
    frames = decode(path, 5)
    assert clips.numbers(frames.pixels) == [100 * index + number for number in (0, 9, 19, 29, 39)]
    assert f"stream {index} (" in frames.notes[0]
    other = decode(path, 5, stream=1 - index)
    assert clips.numbers(other.pixels) == [100 * (1 - index) + number for number in (0, 9, 19, 29, 39)]
    assert other.notes == ()
    with FramePrefetcher(path, FrameSampling(5, stream=1 - index)) as ahead:
        assert torch.equal(ahead.result().pixels, other.pixels)


@pytest.mark.parametrize("stream", [2, -1, True, 1.0, "0"])
def test_a_stream_that_there_is_not(tmp_path: Path, stream: Any) -> None:
    path = write(tmp_path / "clip.mkv", (1, 3, NONE), (1, 3, NONE))
    with pytest.raises(VideoError, match=r"is none of its video streams; choose one of \[0, 1\]"):
        decode(path, 2, stream=stream)
