"""Converting decoded frames to upright RGB: colour and size by swscale, rotation by the display matrix."""

from collections.abc import Callable, Mapping
from typing import TypeAlias, cast

import numpy as np
import numpy.typing as npt
from av.buffer import Buffer
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

Image: TypeAlias = npt.NDArray[np.uint8]
Turn: TypeAlias = tuple[bool, bool, bool]
Size: TypeAlias = tuple[int, int] | Callable[[int, int], tuple[int, int]] | None
Fit: TypeAlias = Callable[[int, int, int], tuple[int, int]]

# Bit-exact, so that an image does not depend on the vector instructions of the machine.
_SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT


class Upright:
    """Converts decoded frames to `(H, W, 3)` uint8 images as a player would show them.

    Parameters
    ----------
    size: `(H, W)` of every image, without keeping the aspect ratio, or a function that returns it, given the `(H, W)`
        of the first frame; None keeps the size of the first frame.
    """

    def __init__(self, size: Size) -> None:
        self.size = None if callable(size) else size
        self._choose = size if callable(size) else None
        self.resized = False
        self._native: tuple[int, int] | None = None
        self._reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> Image:
        """Sets `resized` if no size was given and a later frame differs in size from the first."""
        swap, mirror_x, mirror_y = turn(frame)
        upright = (frame.width, frame.height) if swap else (frame.height, frame.width)
        if self.size is None and self._choose is not None:
            self.size = self._choose(*upright)
        if self.size is None:
            self.size = self._native = upright
        self.resized = self.resized or self._native not in (None, upright)
        height, width = self.size[::-1] if swap else self.size
        scaled = self._reformatter.reformat(
            frame, width=width, height=height, format="rgb24", interpolation=_SCALING, threads=1
        )
        image: Image = np.asarray(scaled.to_ndarray(), dtype=np.uint8)
        if swap:
            image = image.transpose(1, 0, 2)
        return image[:: -1 if mirror_y else 1, :: -1 if mirror_x else 1]


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
