"""Decoding N frames of a video file, uniformly over the clip, with their timestamps."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import av
import torch
from av.video.stream import VideoStream
from torch import Tensor

from tangovlm.errors import VideoError

from .pixels import Fit, Size, Upright
from .reader import Reader
from .sample import Timeline, uniform
from .source import MAX_MEGAPIXELS, MAX_PIXELS, local_file

Progress = Callable[[int, int], None]


class DecodeObserver(Protocol):
    """Receives progress while a clip is decoded; an exception that it raises ends the decoding."""

    def on_timestamps(self, timestamps_s: Tensor) -> None:
        """The timestamps `(T,)` of the frames that will be decoded, unless the file is damaged."""

    def on_frames(self, pictures: Tensor, count: int) -> None:
        """The first `count` of `pictures (T, 3, H, W)` are decoded and final."""


@dataclass(frozen=True)
class Frames:
    """Frames of one clip. Letters: T frames, H and W of a frame.

    Parameters
    ----------
    pixels: `(T, 3, H, W)` uint8, RGB, upright; non-square pixels are not corrected.
    timestamps_s: `(T,)` float64, strictly increasing: seconds on the stream's own clock, which need not start at 0.
    fps: mean frames per second of the whole file; None if it has a single frame.
    duration_s: seconds from the first frame of the file to the end of the last.
    notes: messages for the user about how they were decoded.
    """

    pixels: Tensor
    timestamps_s: Tensor
    fps: float | None
    duration_s: float
    notes: tuple[str, ...] = ()


def decode(
    path: str | os.PathLike[str],
    frames: int,
    *,
    size: Size = None,
    fit: Fit | None = None,
    progress: Progress | None = None,
    watch: DecodeObserver | None = None,
    pin_memory: bool = False,
) -> Frames:
    """Decode `frames` frames, uniformly over the whole clip by presentation time.

    Both ends are included; see `sample.uniform` for the exact times. The packets of the stream are read once without
    decoding, to get the times of all frames; then only the packets that the chosen frames depend on are decoded, from
    the keyframe on. Memory holds the chosen frames and the few that the decoder buffers.

    Parameters
    ----------
    path: a local file; URLs and playlists are refused, and no file but this one is opened.
    frames: number of frames. If the clip has fewer, all of them are returned, and a note says so.
    size: `(H, W)` of the upright frames, scaled while decoding (bicubic) without keeping the aspect ratio, or a
        function that returns it, given their original `(H, W)`; None keeps the size of the clip.
    fit: instead of `size`, a function that returns it, given the original H and W and the number of frames.
    progress: called with (frames done, frames in total) before the first frame and after each.
    watch: notified of each frame.
    pin_memory: allocate the frames in page-locked memory, for asynchronous copies to a CUDA device.

    Raises
    ------
    VideoError: not a readable, self-contained local video with at least one frame of at most 64 megapixels; or
        `frames` or `size` is out of range.
    """
    _check_size(size)
    file = local_file(path)
    with Reader(file) as reader:
        timeline = reader.timeline()
        times = [timeline.pts[place] for place in uniform(timeline.pts, frames)]
        clock = _clock(reader.stream, timeline)
        if watch is not None:
            watch.on_timestamps(clock.seconds(times))
        upright = Upright(size if fit is None else lambda height, width: fit(height, width, len(times)))
        pictures, shown = _take(reader, times, timeline, upright, progress, watch, pin_memory)
        notes = _notes(reader, timeline, frames, len(shown), upright, clock)
    return Frames(
        pixels=pictures,
        timestamps_s=clock.seconds(shown),
        fps=clock.fps,
        duration_s=clock.duration_s,
        notes=notes,
    )


def duration_s(path: str | os.PathLike[str]) -> float:
    """Seconds from the first frame of a file to the end of the last, without decoding any.

    Raises
    ------
    VideoError: see `decode`.
    """
    with Reader(local_file(path)) as reader:
        # Reading the times may reopen the file, which replaces the stream.
        timeline = reader.timeline()
        return _clock(reader.stream, timeline).duration_s


@dataclass(frozen=True)
class _Clock:
    """Duration of a tick of the stream in seconds, mean frame rate, and duration of the clip."""

    tick_s: Fraction
    fps: float | None
    duration_s: float

    def seconds(self, ticks: list[int]) -> Tensor:
        """`(T,)` float64."""
        return torch.tensor([float(pts * self.tick_s) for pts in ticks], dtype=torch.float64)


def _clock(stream: VideoStream, timeline: Timeline) -> _Clock:
    tick_s = stream.time_base
    if tick_s is None:
        raise VideoError(f"{stream.container.name}: the video stream has no time base")
    span_s = float((timeline.pts[-1] - timeline.pts[0]) * tick_s)
    fps = (len(timeline.pts) - 1) / span_s if span_s > 0 else None
    last_s = 1 / fps if fps else float(1 / stream.average_rate) if stream.average_rate else 0.0
    return _Clock(tick_s, fps, span_s + last_s)


def _check_size(size: Size) -> None:
    if size is None or callable(size):
        return
    whole = len(size) == 2 and all(isinstance(side, int) and not isinstance(side, bool) for side in size)
    if not whole or min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
        raise VideoError(
            f"size={size!r}: pass (height, width), positive integers with at most {MAX_MEGAPIXELS} megapixels"
        )


def _take(
    reader: Reader,
    times: list[int],
    timeline: Timeline,
    upright: Upright,
    progress: Progress | None,
    watch: DecodeObserver | None,
    pin_memory: bool,
) -> tuple[Tensor, list[int]]:
    """`(T, 3, H, W)` pictures and the ticks of each; fewer than `times` if damage made a frame occur twice."""
    pictures = torch.empty(0, dtype=torch.uint8)
    shown: list[int] = []
    if progress is not None:
        progress(0, len(times))
    for done, frame in enumerate(reader.frames_at(times, timeline), start=1):
        if frame.pts is not None and (not shown or frame.pts > shown[-1]):
            picture = torch.from_numpy(upright(frame).copy())
            if not shown:
                size = (len(times), 3, *picture.shape[:2])
                pictures = torch.empty(size, dtype=torch.uint8, pin_memory=pin_memory)
            pictures[len(shown)] = picture.permute(2, 0, 1)
            shown.append(frame.pts)
            if watch is not None:
                watch.on_frames(pictures, len(shown))
        if progress is not None:
            progress(done, len(times))
    return pictures[: len(shown)], shown


def _notes(
    reader: Reader, timeline: Timeline, asked: int, taken: int, upright: Upright, clock: _Clock
) -> tuple[str, ...]:
    notes = []
    announced_s = (reader.container.duration or 0) / av.time_base
    if announced_s > 1.1 * clock.duration_s + 1:
        notes.append(f"the file announces {announced_s:.1f} s but has {clock.duration_s:.1f} s: it may be truncated")
    available = len(timeline.pts)
    if asked > available:
        notes.append(f"{asked} frames were requested, the clip has {available}: all are used")
    if taken < min(asked, available):
        notes.append(f"{min(asked, available) - taken} of the chosen frames could not be decoded and are left out")
    if reader.packets_damaged:
        notes.append(f"{reader.packets_damaged} damaged packets of the video were skipped")
    if upright.resized:
        notes.append("the frame size changes within the clip: later frames are scaled to that of the first")
    if timeline.counted:
        notes.append("the file has no presentation times: frames were counted from its beginning")
    return tuple(notes)
