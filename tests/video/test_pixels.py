"""Shape, colors and alpha of pictures, as a player shows them."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tangovlm.video import decode
from tangovlm.video.pixels import displayed
from tests.support import clips

SQUARE = Fraction(1)


@pytest.mark.parametrize(
    ("name", "codec", "shape"),
    [
        ("clip.mp4", "libx264", Fraction(64, 45)),
        ("clip.mkv", "libx264", Fraction(64, 45)),
        ("clip.mov", "mpeg4", Fraction(8, 9)),
        ("clip.avi", "mpeg4", Fraction(4, 3)),
        ("clip.ts", "libx264", Fraction(12, 11)),
        ("clip.mpg", "mpeg2video", Fraction(32, 45)),  # MPEG-2 stores the shape of the picture, here 16:9
    ],
)
def test_pixels_that_are_not_square(tmp_path: Path, name: str, codec: str, shape: Fraction) -> None:
    path = clips.write(tmp_path / name, 12, codec=codec, b_frames=0, pixel_aspect=shape)
    frames = decode(path, 12)
    wide = round(clips.WIDTH * shape)
    assert frames.pixels.shape[2:] == (clips.HEIGHT, wide)
    assert frames.aspect == pytest.approx(float(clips.WIDTH * shape / clips.HEIGHT), rel=0.01)
    assert frames.notes == ()
    columns = np.minimum((np.arange(wide) / float(shape)).astype(int), clips.WIDTH - 1)
    expected = clips.drawing(11)[:, columns]
    assert np.abs(frames.pixels[11].permute(1, 2, 0).numpy().astype(int) - expected).mean() < 12


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
def test_the_shape_is_that_of_stored_pixels_which_are_then_turned(tmp_path: Path, degrees: int, mirrored: bool) -> None:
    path = clips.write(tmp_path / "clip.mp4", 3, turn=(degrees, mirrored), pixel_aspect=Fraction(3, 2))
    expected = np.rot90(clips.drawing(2)[:, np.arange(240) * 2 // 3], degrees // 90)
    expected = expected[:, ::-1] if mirrored else expected
    frames = decode(path, 3)
    picture = frames.pixels[2].permute(1, 2, 0).numpy()
    assert picture.shape == expected.shape
    assert np.abs(picture.astype(int) - expected).mean() < 12
    assert frames.aspect == (240 / 64 if degrees % 180 == 0 else 64 / 240)
    asked = []

    def fit(height: int, width: int, count: int) -> tuple[int, int]:
        asked.append((height, width, count))
        return 32, 32

    scaled = decode(path, 3, fit=fit)
    assert asked == [(*expected.shape[:2], 3)]
    assert scaled.pixels.shape == (3, 3, 32, 32)
    assert scaled.aspect == frames.aspect


def test_the_displayed_size() -> None:
    assert displayed(576, 720, Fraction(64, 45)) == (576, 1024)
    assert displayed(480, 720, Fraction(8, 9)) == (480, 640)
    assert displayed(1080, 1440, Fraction(4, 3)) == (1080, 1920)
    assert displayed(64, 160, SQUARE) == (64, 160)
    assert displayed(2, 1, Fraction(1, 4)) == (2, 1)
    assert displayed(8000, 8000, Fraction(2)) == (4000, 8000)  # of at most 64 megapixels
    for damaged in (Fraction(65535), Fraction(1, 65535), Fraction(17)):
        assert displayed(64, 160, damaged) == (64, 160)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.ts"])
@pytest.mark.parametrize(("transfer", "kind"), [(16, "PQ"), (18, "HLG"), (1, None)])
def test_hdr_is_said(tmp_path: Path, name: str, transfer: int, kind: str | None) -> None:
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = clips.WIDTH, clips.HEIGHT, "yuv420p10le"
        stream.codec_context.color_trc = transfer
        for i in range(6):
            frame = av.VideoFrame.from_ndarray(clips.drawing(i), format="rgb24").reformat(format="yuv420p10le")
            frame.pts, frame.time_base, frame.color_trc = i, Fraction(1, 25), transfer
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    frames = decode(path, 6)
    assert clips.numbers(frames.pixels) == list(range(6))
    told = (f"the video is HDR ({kind}) and is not tone-mapped: its colors differ from a player's",)
    assert frames.notes == (told if kind else ())


TRANSPARENT = ("the video has transparent parts: alpha is ignored, the colors that they store are used",)


@pytest.mark.parametrize(
    ("name", "codec", "format"),
    [("clip.mov", "qtrle", "argb"), ("clip.mkv", "ffv1", "bgra"), ("clip.webm", "libvpx-vp9", "yuva420p")],
)
@pytest.mark.parametrize("clear", [0, 1, 4])
def test_alpha_is_said_where_something_is_transparent(
    tmp_path: Path, name: str, codec: str, format: str, clear: int
) -> None:
    """`clear` columns of the picture are transparent; that the file could store alpha is no reason for a note."""
    path = tmp_path / name
    pixel_format = format if clear or codec != "libvpx-vp9" else "yuv420p"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = clips.WIDTH, clips.HEIGHT, pixel_format
        for i in range(6):
            picture = np.dstack([clips.drawing(i), np.full((clips.HEIGHT, clips.WIDTH), 255, np.uint8)])
            picture[:, :clear, 3] = 0
            frame = av.VideoFrame.from_ndarray(picture, format="rgba")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    frames = decode(path, 6)
    assert clips.numbers(frames.pixels) == list(range(6))
    assert frames.notes == (TRANSPARENT if clear else ())


def test_a_gif_without_transparent_parts_is_opaque(tmp_path: Path) -> None:
    path = tmp_path / "clip.gif"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("gif", rate=25)
        stream.width, stream.height, stream.pix_fmt = clips.WIDTH, clips.HEIGHT, "gray"
        for i in range(4):
            frame = av.VideoFrame.from_ndarray(clips.drawing(i), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    frames = decode(path, 4)
    assert clips.numbers(frames.pixels) == [0, 1, 2, 3]
    assert frames.notes == ()
