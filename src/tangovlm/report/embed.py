"""Pictures inside an HTML page, as data URIs that fit into a number of bytes."""

import base64
import io
from collections.abc import Sequence

from PIL import Image

from .overlay import resize
from .palette import Pixels

CHOICES = ((448, 88), (384, 85), (320, 82), (256, 80), (224, 75), (192, 70), (160, 65), (128, 60), (96, 50), (64, 40))
"""Widths of a frame in pixels and qualities of JPEG, best first."""
_PROBES = 6


def jpegs(pictures: Sequence[Pixels], aspect: float, limit: int) -> list[str]:
    """Encode the frames of a video with the best of `CHOICES` whose total length is within a limit; else with the last.

    Parameters
    ----------
    pictures: `(Y, X, 3)` uint8, of one size.
    aspect: width divided by height of the encoded pictures.
    limit: sum of the lengths of the data URIs, in bytes.
    """
    probes = pictures[:: max(1, len(pictures) // _PROBES)]
    widest = max(224, pictures[0].shape[1])
    choices = [choice for choice in CHOICES if choice[0] <= widest]
    for width, quality in choices:
        last = (width, quality) == choices[-1]
        mean = sum(len(_jpeg(each, width, aspect, quality)) for each in probes) / len(probes)
        if mean * len(pictures) > limit and not last:
            continue
        encoded = [_jpeg(each, width, aspect, quality) for each in pictures]
        if sum(map(len, encoded)) <= limit or last:
            return encoded
    raise AssertionError("there is a last choice")


def png(pixels: Pixels) -> str:
    """Encode a layer `(Y, X, 4)` RGBA."""
    return _data_uri(Image.fromarray(pixels), "png", optimize=True)


def _jpeg(picture: Pixels, width: int, aspect: float, quality: int) -> str:
    return _data_uri(Image.fromarray(resize(picture, width, aspect)), "jpeg", quality=quality, optimize=True)


def _data_uri(image: Image.Image, kind: str, **options: int) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
