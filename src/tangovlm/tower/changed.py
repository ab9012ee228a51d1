"""Frames that show nothing new are not encoded: they get the features of the last encoded frame.

Two frames are alike if, in every cell of a grid laid over them, no mean colour differs by more than a threshold. A cell
is small, so that one small thing that appears or leaves counts as much as a new scene. Frames are compared with the
last *encoded* one, so that a slow change adds up until it counts.

Shape letters: F frames of a call, V values of a frame (cells times colours).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError

ENCODE = ("all", "changed")
"""Which frames of a video are encoded."""


@dataclass(frozen=True)
class Changed:
    """Encode the frames that differ from the last encoded one.

    Parameters
    ----------
    threshold: the largest difference of a mean colour between frames that are alike, in 255ths of the range. At 0, only
        frames that are equal up to rounding are alike.

    Raises
    ------
    InputError: a threshold that is not a number from 0 to 255.

    Examples
    --------
    >>> Changed().threshold
    8.0
    """

    threshold: float = 8.0

    def __post_init__(self) -> None:
        is_number = isinstance(self.threshold, (int, float)) and not isinstance(self.threshold, bool)
        if not is_number or not 0 <= self.threshold <= 255 or math.isnan(self.threshold):
            raise InputError(f"the threshold of encode is {self.threshold!r}: give a number from 0 to 255, such as 8")

    def rows(self, colors: Sequence[Tensor], videos: Iterable[tuple[int, int]]) -> Tensor:
        """Which encoded frame's features each frame of a call gets: ``(F,)`` int64, numbers among the encoded frames.

        Parameters
        ----------
        colors: mean colours ``(V,)`` of the cells of each frame, in 255ths of the range.
        videos: (start, stop) of each video among the frames. Other frames (images) are always encoded, and so is the
            first frame of a video.
        """
        is_encoded = torch.ones(len(colors), dtype=torch.bool)
        # One transfer from the device for all frames of a video.
        for start, stop in videos:
            values = torch.stack(list(colors[start:stop])).float().cpu()
            last = values[0]
            for place, frame in enumerate(values[1:].unbind(), start=start + 1):
                # NaN is never alike, so that it reaches the checks of the features.
                if bool(((frame - last).abs() <= self.threshold).all()):
                    is_encoded[place] = False
                else:
                    last = frame
        return is_encoded.cumsum(0) - 1


def resolve(encode: object) -> Changed | None:
    """What the user asks for: None to encode all frames.

    Raises
    ------
    InputError: it is neither one of `ENCODE` nor a `Changed`.

    Examples
    --------
    >>> resolve("all"), resolve("changed")
    (None, Changed(threshold=8.0))
    """
    if encode == "all":
        return None
    if encode == "changed":
        return Changed()
    if isinstance(encode, Changed):
        return encode
    raise InputError(f"encode is {encode!r}: choose {' or '.join(map(repr, ENCODE))}")
