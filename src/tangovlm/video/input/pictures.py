"""Videos that are pictures: folders and lists of pictures, and animated WebP and PNG files."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import cast

import numpy as np
from av.video.frame import VideoFrame
from PIL import Image, ImageOps

from tangovlm.errors import VideoError

from ..frames import Clock
from ..sample import Timeline
from ..source import MAX_MEGAPIXELS, MAX_PIXELS, local_file

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".ppm", ".tif", ".tiff")
"""Endings of the files in a folder that count as pictures, in any case."""

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "PPM", "TIFF")
_ANIMATED_FORMATS = ("PNG", "WEBP")
_HEADS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*")
_TICK_S = Fraction(1, 10**6)
# Browsers show a frame whose delay is shorter than this for a tenth of a second.
_SHORTEST_MS, _USUAL_MS = 11, 100
# Transparent parts are shown on a page, as in browsers.
_PAGE = (255, 255, 255)
_ERRORS = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)


@dataclass
class Pictures:
    """Pictures that follow each other in time.

    Parameters
    ----------
    name: of the whole, for errors.
    files: the pictures in order; one, if that is an animated picture.
    animated: whether the frames are those of one file.
    clock: of the pictures; `start` is 0.
    pts: when each picture appears, in ticks.
    notes: messages for the user about what was found.
    first: index of the first frame of an animated picture; the one before it is for programs that show still pictures.
    """

    name: str
    files: Sequence[Path]
    animated: bool
    clock: Clock
    pts: Sequence[int]
    notes: list[str] = field(default_factory=list)
    first: int = 0
    _size: tuple[int, int] | None = None
    _fitted: int = 0
    _transparent: bool = False

    def timeline(self) -> Timeline:
        """The times of all pictures."""
        return Timeline(self.pts, ())

    def frames_at(self, times: Sequence[int]) -> Iterator[VideoFrame]:
        """The pictures that appear at `times`, all in the size of the first of them.

        Raises
        ------
        VideoError: a picture that cannot be decoded, or is animated itself.
        """
        places = {time: place for place, time in enumerate(self.pts)}
        if self.animated:
            with opened(self.files[0], _ANIMATED_FORMATS) as image, _said(self.files[0]):
                for time in times:
                    image.seek(self.first + places[time])
                    yield self._frame(image, time)
            return
        for time in times:
            file = self.files[places[time]]
            with opened(file) as image, _said(file):
                if getattr(image, "n_frames", 1) > 1:
                    raise VideoError(f"{file}: an animated picture among others; pass it alone")
                yield self._frame(image, time)

    def describe(self, asked: int, available: int) -> tuple[str, ...]:
        """Notes, after the pictures are decoded.

        Parameters
        ----------
        asked, available: numbers of frames that were requested, and that the part to take has.
        """
        notes = list(self.notes)
        if asked > available:
            notes.append(f"{asked} frames were requested, the clip has {available}: all are used")
        if self._fitted:
            assert self._size is not None
            size = f"{self._size[0]} x {self._size[1]}"
            notes.append(f"pictures differ in size: {self._fitted} are fitted into {size} with black bars")
        if self._transparent:
            notes.append("pictures have transparent parts, which are shown on white")
        return tuple(notes)

    def _frame(self, image: Image.Image, time: int) -> VideoFrame:
        picture = self._opaque(ImageOps.exif_transpose(image))
        if self._size is None:
            self._size = picture.size
        elif picture.size != self._size:
            picture = ImageOps.pad(picture, self._size)
            self._fitted += 1
        frame = VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")
        frame.pts = time
        return frame

    def _opaque(self, image: Image.Image) -> Image.Image:
        if image.mode.startswith("I;16"):
            # Pillow clips these values instead of scaling them.
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if image.mode in ("I", "F"):
            raise ValueError("its values are not those of a photo")
        if not image.has_transparency_data:
            return image.convert("RGB")
        layer = image.convert("RGBA")
        # Alpha is seldom used where it exists.
        lowest = cast("tuple[int, int]", layer.getchannel("A").getextrema())[0]
        self._transparent = self._transparent or lowest < 255
        page = Image.new("RGBA", layer.size, _PAGE)
        return Image.alpha_composite(page, layer).convert("RGB")


def find_pictures(video: object, fps: float | None = None) -> Pictures | None:
    """The pictures of a folder, a list of files, or an animated picture; None for anything else, such as a video file.

    Parameters
    ----------
    fps: rate of the pictures of a folder or a list; None for 1, which a note says. An animated picture has its own
        times.

    Raises
    ------
    VideoError: a folder or a list without pictures, a missing file, a still picture, or a damaged animated one.
    """
    if isinstance(video, (list, tuple)):
        if not video:
            raise VideoError("the list of pictures is empty; pass the paths of pictures")
        return _sequence("the list of pictures", [local_file(file) for file in video], fps, [])
    if not isinstance(video, (str, os.PathLike)) or not os.fspath(video):
        return None
    if os.path.isdir(video):
        return _folder(Path(os.fsdecode(video)), fps)
    file = local_file(video)
    with file.open("rb") as data:
        head = data.read(12)
    if head.startswith(_HEADS) or (head.startswith(b"RIFF") and head.endswith(b"WEBP")):
        return _animation(file)
    return None


@contextmanager
def opened(file: Path, formats: tuple[str, ...] = _FORMATS) -> Iterator[Image.Image]:
    """An open picture of at most `MAX_PIXELS` pixels.

    Raises
    ------
    VideoError: it cannot be opened, or is larger.
    """
    with _said(file):
        image = Image.open(file, formats=formats)
    with image:
        if image.width * image.height > MAX_PIXELS:
            size = f"{image.width} x {image.height} pixels"
            raise VideoError(f"{file}: a picture of {size}; up to {MAX_MEGAPIXELS} megapixels are accepted")
        yield image


@contextmanager
def _said(file: Path) -> Iterator[None]:
    """Turn the errors of Pillow into a `VideoError`."""
    try:
        yield
    except VideoError:
        raise
    except _ERRORS as error:
        why = " ".join(str(error).replace(f" {str(file)!r}", "").split()) or type(error).__name__
        raise VideoError(f"{file}: cannot be read as a picture ({why}); copy it again, or leave it out") from error


def _folder(folder: Path, fps: float | None) -> Pictures:
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.is_file() and not entry.name.startswith(".")]
    except OSError as error:
        raise VideoError(f"{folder}: cannot be read ({error.strerror}); check the path") from error
    found = sorted((name for name in names if name.lower().endswith(SUFFIXES)), key=_natural)
    if not found:
        raise VideoError(
            f"{folder}: a folder without pictures ({', '.join(suffix[1:] for suffix in SUFFIXES)}); pass a video file "
            "or a folder with pictures"
        )
    note = f"the folder has {len(found)} pictures"
    if len(found) > 1:
        note += f", from {found[0]} to {found[-1]} in natural order"
    others = len(names) - len(found)
    notes = [note + (f"; {others} other files in it are ignored" if others else "")]
    return _sequence(str(folder), [folder.absolute() / name for name in found], fps, notes)


def _sequence(name: str, files: Sequence[Path], fps: float | None, notes: list[str]) -> Pictures:
    rate = Fraction(1) if fps is None else Fraction(str(fps))
    if fps is None and len(files) > 1:
        notes = [*notes, "pictures have no times: they are taken to be 1 s apart; fps sets their rate"]
    clock = Clock(1 / rate, 0, float(rate) if len(files) > 1 else None, float(len(files) / rate))
    return Pictures(name, files, False, clock, range(len(files)), notes)


def _animation(file: Path) -> Pictures:
    delays_ms: list[float] = []
    with opened(file) as image, _said(file):
        first = int(getattr(image, "default_image", False))
        frames = getattr(image, "n_frames", 1) if image.format in _ANIMATED_FORMATS else 1
        for place in range(first, frames):
            image.seek(place)
            image.load()
            delays_ms.append(float(image.info.get("duration", 0)))
    if len(delays_ms) < 2:
        raise VideoError(f"{file}: a still picture, not a video; pass a folder or a list of pictures to ask about them")
    notes = []
    if hasty := sum(delay < _SHORTEST_MS for delay in delays_ms):
        notes.append(f"{hasty} pictures have no delay or a very short one: they are taken to be shown for 0.1 s")
    pts = [0]
    for delay in delays_ms:
        shown_ms = _USUAL_MS if delay < _SHORTEST_MS else Fraction(delay)
        pts.append(pts[-1] + round(shown_ms / 1000 / _TICK_S))
    span_s = float(pts[-2] * _TICK_S)
    clock = Clock(_TICK_S, 0, (len(delays_ms) - 1) / span_s, float(pts[-1] * _TICK_S))
    return Pictures(str(file), [file], True, clock, pts[:-1], notes, first)


def _natural(name: str) -> tuple[list[str | int], str]:
    """A key that sorts numbers in names by their value."""
    parts = re.split(r"([0-9]+)", name.lower())
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name
