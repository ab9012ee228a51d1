"""What decoding returns: frames, and their times in seconds from the first frame of the clip."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Self

import torch
from av.video.stream import VideoStream
from torch import Tensor

from tangovlm.errors import VideoError

from .sample import Timeline


@dataclass(frozen=True)
class Frames:
    """Frames of one clip. Letters: T frames, H and W of a frame.

    Parameters
    ----------
    pixels: `(T, 3, H, W)` uint8, RGB, upright; without a requested size in square pixels.
    timestamps_s: `(T,)` float64, strictly increasing: seconds since the first frame of the file.
    fps: mean frames per second of the whole file; None if it has a single frame.
    duration_s: seconds from the first frame of the file to the end of the last.
    notes: messages for the user about how they were decoded.
    start_s: presentation time of the first frame of the file in seconds, on the stream's own clock.
    aspect: width divided by height in which the pictures are displayed, whatever the size of `pixels`: the file may
        rotate them and have pixels that are not square. None if unknown.
    keyframes: how many of the frames are the nearest keyframe in place of the one shown at the wanted time.
    excerpt_s: start and end of the part of the file that was taken, in seconds since its first frame; None for all of
        it. The first frame is the one on screen at the start, so that it may have an earlier time.
    """

    pixels: Tensor
    timestamps_s: Tensor
    fps: float | None
    duration_s: float
    notes: tuple[str, ...] = ()
    start_s: float = 0.0
    aspect: float | None = None
    keyframes: int = 0
    excerpt_s: tuple[float, float] | None = None

    @property
    def prompt_times_s(self) -> Tensor:
        """`(T,)` seconds since the beginning of the part that was taken, as a model is given them."""
        return self.timestamps_s if self.excerpt_s is None else since(self.timestamps_s, self.excerpt_s[0])

    @property
    def prompt_duration_s(self) -> float:
        """Seconds of the part that was taken, as a model is given them."""
        return self.duration_s if self.excerpt_s is None else self.excerpt_s[1] - self.excerpt_s[0]


def since(times_s: Tensor, start_s: float) -> Tensor:
    """`(T,)` seconds since `start_s`, rounded to nanoseconds; 0 for an earlier time."""
    return (times_s - start_s).clamp(min=0).round(decimals=9)


@dataclass(frozen=True)
class Clock:
    """Converts the ticks of a stream to seconds since its first frame.

    Parameters
    ----------
    tick_s: duration of a tick in seconds.
    start: presentation time of the first frame, in ticks.
    fps, duration_s: see `Frames`.
    """

    tick_s: Fraction
    start: int
    fps: float | None
    duration_s: float

    @classmethod
    def of(cls, stream: VideoStream, timeline: Timeline) -> Self:
        """The clock of a stream.

        Raises
        ------
        VideoError: the stream has no time base.
        """
        tick_s = stream.time_base
        if tick_s is None:
            raise VideoError(f"{stream.container.name}: the video stream has no time base")
        start = timeline.pts[0]
        span_s = float((timeline.pts[-1] - start) * tick_s)
        fps = (len(timeline.pts) - 1) / span_s if span_s > 0 else None
        last_s = 1 / fps if fps else float(1 / stream.average_rate) if stream.average_rate else 0.0
        return cls(tick_s, start, fps, span_s + last_s)

    @property
    def start_s(self) -> float:
        """See `Frames`."""
        return float(self.start * self.tick_s)

    def seconds(self, ticks: Sequence[int]) -> Tensor:
        """`(T,)` float64."""
        return torch.tensor([float((pts - self.start) * self.tick_s) for pts in ticks], dtype=torch.float64)
