"""Converting decoded frames to upright RGB: colour and size by swscale, rotation by the display matrix."""

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import TypeAlias, cast

import numpy as np
import numpy.typing as npt
from av.buffer import Buffer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorTrc, Interpolation, VideoReformatter

from .source import MAX_PIXELS

Image: TypeAlias = npt.NDArray[np.uint8]
Turn: TypeAlias = tuple[bool, bool, bool]
Size: TypeAlias = tuple[int, int] | Callable[[int, int], tuple[int, int]] | None
Fit: TypeAlias = Callable[[int, int, int], tuple[int, int]]

# Bit-exact, so that an image does not depend on the vector instructions of the machine.
_SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
_HDR: dict[int, str] = {ColorTrc.SMPTE2084: "PQ", ColorTrc.ARIB_STD_B67: "HLG"}
# Pixels that are more elongated are damage of a header; anamorphic video has at most 4:1.
_MAX_PIXEL_ASPECT = 16


class Upright:
    """Converts decoded frames to `(H, W, 3)` uint8 images as a player would show them.

    Parameters
    ----------
    size: `(H, W)` of every image, without keeping the aspect ratio, or a function that returns it, given the `(H, W)`
        in which the first frame is displayed; None keeps that.
    pixel_aspect: width divided by height of a stored pixel; None for square pixels.

    Attributes
    ----------
    aspect: width divided by height in which the first frame is displayed; None before it.
    resized: whether no size was given and a later frame differs in size from the first.
    hdr: PQ or HLG if a frame has that transfer function; nothing is tone-mapped.
    transparent: whether a frame was not opaque; the colors that it stores are used.
    """

    def __init__(self, size: Size, pixel_aspect: Fraction | None = None) -> None:
        self.size = None if callable(size) else size
        self._choose = size if callable(size) else None
        self._pixel_aspect = pixel_aspect or Fraction(1)
        self.resized = False
        self.aspect: float | None = None
        self.hdr: str | None = None
        self.transparent = False
        self._native: tuple[int, int] | None = None
        self._reformatter = VideoReformatter()
        self._alpha_reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> Image:
        """The image of a frame; updates the attributes."""
        swap, mirror_x, mirror_y = turn(frame)
        upright = displayed(frame.height, frame.width, self._pixel_aspect)
        upright = upright[::-1] if swap else upright
        if self.aspect is None:
            self.aspect = upright[1] / upright[0]
        if self.size is None and self._choose is not None:
            self.size = self._choose(*upright)
        if self.size is None:
            self.size = self._native = upright
        self.resized = self.resized or self._native not in (None, upright)
        height, width = self.size[::-1] if swap else self.size
        scaled = self._reformatter.reformat(
            frame, width=width, height=height, format="rgb24", interpolation=_SCALING, threads=1
        )
        self.hdr = self.hdr or _HDR.get(frame.color_trc)
        self.transparent = self.transparent or self._is_transparent(frame, height, width)
        image: Image = np.asarray(scaled.to_ndarray(), dtype=np.uint8)
        if swap:
            image = image.transpose(1, 0, 2)
        return image[:: -1 if mirror_y else 1, :: -1 if mirror_x else 1]

    def _is_transparent(self, frame: VideoFrame, height: int, width: int) -> bool:
        if not any(component.is_alpha for component in frame.format.components):
            return False
        rgba = self._alpha_reformatter.reformat(frame, width=width, height=height, format="rgba", threads=1)
        return bool((rgba.to_ndarray()[:, :, 3] < 255).any())


def displayed(height: int, width: int, pixel_aspect: Fraction) -> tuple[int, int]:
    """The size, in square pixels, of a picture of `(height, width)` pixels of another shape.

    The width changes, as in players; the height where that would give more than `MAX_PIXELS`. Shapes that no video has
    are ignored.
    """
    if not Fraction(1, _MAX_PIXEL_ASPECT) <= pixel_aspect <= _MAX_PIXEL_ASPECT:
        return height, width
    wide = max(1, round(width * pixel_aspect))
    if height * wide > MAX_PIXELS:
        return max(1, round(height / pixel_aspect)), width
    return height, wide


def turn(frame: VideoFrame) -> Turn:
    """`(swap the axes, then mirror left-right, then mirror top-bottom)` from the frame's display matrix.

    The matrix `[a b u; c d v; x y w]` maps the stored point `(p, q)` to `(a p + c q + x, b p + d q + y)`, x to the
    right and y down. Angles are rounded to quarter turns.
    """
    side_data = cast(Mapping[str, Buffer], frame.side_data)
    matrix = side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(bytes(matrix), dtype=np.int32)[:5].astype(np.int64).tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        return True, c < 0, b < 0
    return False, a < 0, d < 0
