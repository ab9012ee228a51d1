"""Folders and lists of pictures and animated pictures, each of which shows its own number."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tangovlm.errors import VideoError
from tangovlm.video import decode, duration_s
from tangovlm.video.decode import check
from tangovlm.video.input.sampling import FrameSampling
from tangovlm.video.prefetch import FramePrefetcher
from tests.support import clips


def picture(number: int) -> Image.Image:
    return Image.fromarray(clips.drawing(number))


def folder_of(path: Path, names: list[str]) -> Path:
    """Picture i, showing its number, under each name."""
    path.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        picture(number).save(path / name)
    return path


def animation(path: Path, count: int = 6, delays_ms: Any = 100, **options: Any) -> Path:
    first, *others = (picture(number) for number in range(count))
    options |= {"lossless": True} if path.suffix == ".webp" else {}
    first.save(path, save_all=True, append_images=others, duration=delays_ms, **options)
    return path


def test_a_folder_is_sorted_by_the_numbers_in_names(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "shots", ["shot1.png", "shot2.JPG", "Shot3.bmp", "shot10.webp", "shot10b.ppm"])
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "more.png").mkdir()
    frames = decode(folder, 9)
    assert clips.numbers(frames.pixels) == [0, 1, 2, 3, 4]
    assert frames.timestamps_s.tolist() == [0, 1, 2, 3, 4]
    assert frames.fps == 1 and frames.duration_s == 5 == duration_s(folder)
    assert frames.aspect == clips.WIDTH / clips.HEIGHT
    assert frames.notes == (
        "the folder has 5 pictures, from shot1.png to shot10b.ppm in natural order; 1 other files in it are ignored",
        "pictures have no times: they are taken to be 1 s apart; fps sets their rate",
        "9 frames were requested, the clip has 5: all are used",
    )
    assert clips.numbers(decode(str(folder), 3).pixels) == [0, 2, 4]


def test_a_rate_is_that_of_the_pictures(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "shots", [f"{number}.png" for number in range(12)])
    frames = decode(folder, fps=4)
    assert clips.numbers(frames.pixels) == list(range(12))
    assert frames.timestamps_s.tolist() == [number / 4 for number in range(12)]
    assert frames.duration_s == 3
    assert frames.notes == ("the folder has 12 pictures, from 0.png to 11.png in natural order",)
    few = decode(folder, fps=4, max_frames=3, start_s=1, end_s=2.5)
    assert clips.numbers(few.pixels) == [4, 6, 9]
    assert few.prompt_times_s.tolist() == [0, 0.5, 1.25]
    assert clips.numbers(decode(folder, 12, start_s=10.5).pixels) == [10, 11]


def test_a_list_keeps_its_order(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "shots", ["a.png", "b.png", "c.png"])
    files = [folder / "c.png", str(folder / "a.png"), folder / "c.png"]
    frames = decode(files, 8, size=(32, 80))
    assert clips.numbers(frames.pixels) == [2, 0, 2]
    assert frames.pixels.shape == (3, 3, 32, 80)
    assert frames.notes[0] == "pictures have no times: they are taken to be 1 s apart; fps sets their rate"
    single = decode((folder / "b.png",), 8)
    assert clips.numbers(single.pixels) == [1]
    assert single.fps is None
    with FramePrefetcher(files, 3) as ahead:
        assert clips.numbers(ahead.take(0, 3)) == [2, 0, 2]


@pytest.mark.parametrize("name", ["clip.webp", "clip.png"])
def test_an_animation_has_its_own_times(tmp_path: Path, name: str) -> None:
    path = animation(tmp_path / name, 6, [100, 40, 1000, 40, 20, 300])
    frames = decode(path, 99)
    assert clips.numbers(frames.pixels) == [0, 1, 2, 3, 4, 5]
    assert frames.timestamps_s.tolist() == pytest.approx([0, 0.1, 0.14, 1.14, 1.18, 1.2])
    assert frames.duration_s == pytest.approx(1.5) == duration_s(path)
    assert frames.fps == pytest.approx(5 / 1.2)
    assert frames.notes == ("99 frames were requested, the clip has 6: all are used",)
    assert clips.numbers(decode(path, fps=10).pixels) == [0, 1, 2, 5]
    assert clips.numbers(decode(path, 2, start_s=0.5, end_s=1.19).pixels) == [2, 4]


def test_an_animated_gif_is_read_as_before(tmp_path: Path) -> None:
    frames = decode(animation(tmp_path / "clip.gif", 5, [100, 40, 200, 40, 100]), 5)
    assert clips.numbers(frames.pixels) == [0, 1, 2, 3, 4]
    assert frames.timestamps_s.tolist() == pytest.approx([0, 0.1, 0.14, 0.34, 0.38])


def test_delays_that_are_too_short(tmp_path: Path) -> None:
    frames = decode(animation(tmp_path / "clip.webp", 3, [0, 10, 50]), 3)
    assert frames.timestamps_s.tolist() == pytest.approx([0, 0.1, 0.2])
    assert frames.notes == ("2 pictures have no delay or a very short one: they are taken to be shown for 0.1 s",)


def test_the_still_picture_of_an_animated_png_is_no_frame_of_it(tmp_path: Path) -> None:
    path = tmp_path / "clip.png"
    others = [picture(number) for number in (1, 2, 3)]
    picture(0).save(path, save_all=True, append_images=others, duration=200, default_image=True)
    frames = decode(path, 8)
    assert clips.numbers(frames.pixels) == [1, 2, 3]
    assert frames.timestamps_s.tolist() == pytest.approx([0, 0.2, 0.4])


def test_pictures_of_other_sizes_are_fitted(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "shots", ["1.png", "2.png"])
    picture(3).resize((320, 128)).save(folder / "3.png")
    Image.new("RGB", (64, 64), "white").save(folder / "4.png")
    frames = decode(folder, 4)
    assert clips.numbers(frames.pixels[:3]) == [0, 1, 3]
    square = frames.pixels[3].float().mean(dim=(0, 1))
    assert square[:40].max() == 0 and square[60:100].min() == 255 and square[-40:].max() == 0
    assert "pictures differ in size: 2 are fitted into 160 x 64 with black bars" in frames.notes
    assert not any("differ" in note for note in decode(folder, 4, end_s=2).notes)


def test_pictures_of_every_kind(tmp_path: Path) -> None:
    """Turned by a camera, transparent, gray, with a palette, and of 16 bits."""
    orientation = Image.Exif()
    orientation[0x0112] = 6
    picture(5).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "1.jpg", exif=orientation)
    opaque = np.where(clips.drawing(6)[:, :, 0] > 128, 0, 255)
    Image.fromarray(np.dstack([np.full_like(opaque, 18)] * 3 + [opaque]).astype(np.uint8)).save(tmp_path / "2.png")
    picture(7).convert("L").save(tmp_path / "3.png")
    picture(8).quantize(4).save(tmp_path / "4.png")
    Image.fromarray(clips.drawing(9)[:, :, 0].astype(np.uint16) * 257).save(tmp_path / "5.png")
    frames = decode(tmp_path, 5)
    assert clips.numbers(frames.pixels) == [5, 6, 7, 8, 9]
    assert "pictures have transparent parts, which are shown on white" in frames.notes
    assert not any("transparent" in note for note in decode(tmp_path, 3, start_s=2).notes)


def refused(video: Any, *words: str, sampling: FrameSampling | None = None) -> None:
    """The same line by decoding and, before it, by a check, unless it is found by decoding only."""
    chosen = sampling or FrameSampling(4)
    with pytest.raises(VideoError) as error:
        decode(video, chosen)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_what_is_no_video_of_pictures(tmp_path: Path) -> None:
    refused(tmp_path, f"{tmp_path}: a folder without pictures (png, jpg")
    (tmp_path / "clip.txt").write_text("")
    refused(tmp_path, "a folder without pictures")
    refused([], "the list of pictures is empty")
    refused([tmp_path / "no.png"], "no.png: cannot be read (No such file")
    refused([3], "must be str or os.PathLike, not int")
    refused(["http://host/a.png"], "URLs are not opened")
    for name in ("a.png", "a.jpg", "a.webp", "a.bmp", "a.tif"):
        picture(1).save(tmp_path / name)
        refused(tmp_path / name, "a still picture, not a video; pass a folder or a list")
    refused([tmp_path / "a.png", animation(tmp_path / "b.webp")], "b.webp: an animated picture among others")
    refused([clips.write(tmp_path / "clip.mp4", 3)], "clip.mp4: cannot be read as a picture (cannot identify")
    folder = folder_of(tmp_path / "shots", ["1.png", "2.png"])
    refused(folder, "the start is 2 s, but the video ends at 2.00 s", sampling=FrameSampling(2, start_s=2))
    refused(folder, "stream=0 is given, but pictures have no streams", sampling=FrameSampling(2, stream=0))
    with pytest.raises(VideoError, match="the start is 9 s"):
        check(folder, FrameSampling(start_s=9))
    with pytest.raises(VideoError, match="no streams"):
        check(animation(tmp_path / "c.png"), FrameSampling(stream=1))
    check(folder, FrameSampling(start_s=1))


@pytest.mark.parametrize("name", ["1.png", "1.jpg", "1.webp"])
def test_a_damaged_picture(tmp_path: Path, name: str) -> None:
    picture(3).resize((800, 320)).save(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    for kept in (1, 20, len(data) // 2):
        (tmp_path / name).write_bytes(data[:kept])
        refused(tmp_path, f"{name}: cannot be read as a picture (", "copy it again")


@pytest.mark.parametrize("name", ["clip.png", "clip.webp"])
def test_an_animation_cut_anywhere_is_read_or_refused(tmp_path: Path, name: str) -> None:
    data = animation(tmp_path / name, 5).read_bytes()
    path = tmp_path / f"cut{Path(name).suffix}"
    for kept in range(1, len(data), max(1, len(data) // 60)):
        path.write_bytes(data[:kept])
        try:
            frames = decode(path, 8)
        except VideoError:
            pass
        else:
            assert clips.numbers(frames.pixels) == [0, 1, 2, 3, 4][: len(frames.pixels)]


def test_pictures_that_are_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tangovlm.video.input.pictures.MAX_PIXELS", clips.WIDTH * clips.HEIGHT)
    folder = folder_of(tmp_path / "shots", ["1.png"])
    decode(folder, 1)
    picture(1).resize((clips.WIDTH, clips.HEIGHT + 1)).save(folder / "1.png")
    refused(folder, "1.png: a picture of 160 x 65 pixels; up to 64 megapixels")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the file system ignores permissions")
def test_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "shots", ["1.png"])
    folder.chmod(0)
    try:
        refused(folder, "cannot be read (Permission denied)")
    finally:
        folder.chmod(0o700)
