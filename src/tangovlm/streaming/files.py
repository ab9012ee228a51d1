"""Frames of a video one by one, so that memory does not grow with its length."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import NamedTuple

import torch
from av.video.frame import VideoFrame
from torch import Tensor

from ..video.frames import Clock, since
from ..video.index import WrongIndexError
from ..video.input import VideoSource
from ..video.input.pictures import find_pictures
from ..video.input.sampling import FrameSampling, choose
from ..video.notes import describe
from ..video.parallel import frames_at
from ..video.pixels import Fit, Upright
from ..video.reader import Reader
from ..video.source import local_file
from ..video.streams import describe_streams, video_streams

_NO_LIMIT = 2**31


class Step(NamedTuple):
    """One frame of a video.

    Parameters
    ----------
    time_s: seconds since the beginning of the part that is taken.
    picture: ``(3, H, W)`` uint8, RGB, upright.
    """

    time_s: float
    picture: Tensor


class FrameWalk:
    """The frames that `decode` returns at a rate, each when it is asked for; iterate over it once.

    Parameters
    ----------
    path: see `decode`; no file object.
    sampling: with a rate; it has no largest number of frames unless it is given.
    fit: see `decode`; it is given 1 as the number of frames, since that of a long video is no reason for smaller ones.
    after_s: only frames with a later time are taken.
    margin_s: frames so close to the last one of the file are left out, and so is that one: the file grows, and what it
        has of them may not be all.

    Attributes
    ----------
    count: frames that will be taken; 0 before the first.
    duration_s: of the whole file, in seconds; 0 before the first frame.
    notes: about the file; complete after the last frame.

    Raises
    ------
    VideoError: while iterating, see `decode`.

    Examples
    --------
    >>> walk = FrameWalk("tangovlm-demo/clip.mp4", FrameSampling(fps=1), fit=lambda height, width, frames: (64, 64))
    >>> [step.time_s for step in walk][:3], walk.count
    ([0.0, 1.0, 2.0], 8)
    """

    def __init__(
        self, path: VideoSource, sampling: FrameSampling, *, fit: Fit, after_s: float = -1.0, margin_s: float = 0.0
    ) -> None:
        most = sampling.max_frames or (None if sampling.fps is None else _NO_LIMIT)
        self._path, self._sampling, self._fit = path, replace(sampling, max_frames=most), fit
        self._after_s, self._margin_s = after_s, margin_s
        self.count = 0
        self.duration_s = 0.0
        self.notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Step]:
        if (found := find_pictures(self._path, self._sampling.fps)) is not None:
            choice = choose(self._sampling, found.timeline(), found.clock, found.name)
            times, upright = self._wanted(found.clock, choice.times, found.pts[-1]), self._upright()
            yield from self._steps(found.frames_at(times), found.clock, upright, [])
            self.notes = (*found.describe(choice.asked, len(choice.part.pts)), *choice.notes)
            return
        try:
            yield from self._of_file(use_index=True)
        except WrongIndexError:
            # Frames that were taken before the difference was found are not taken again.
            yield from self._of_file(use_index=False)

    def _of_file(self, *, use_index: bool) -> Iterator[Step]:
        file = local_file(self._path)
        with Reader(file, self._sampling.stream) as reader:
            timeline = reader.timeline(use_index)
            clock = Clock.of(reader.stream, timeline)
            choice = choose(self._sampling, timeline, clock, str(file))
            times, shown = self._wanted(clock, choice.times, timeline.pts[-1]), list[int]()
            upright = self._upright(reader)
            if times:
                with closing(frames_at(reader, times, timeline)) as decoded:
                    yield from self._steps(decoded, clock, upright, shown)
            notes = (*describe(reader, choice.part, clock, len(times), shown, upright), *choice.notes)
            if self._sampling.stream is None and len(video_streams(reader.container)) > 1:
                notes = (describe_streams(reader.container, reader.stream.index), *notes)
            self.notes = notes

    def _upright(self, reader: Reader | None = None) -> Upright:
        fit = self._fit
        return Upright(
            lambda height, width: fit(height, width, 1), None if reader is None else reader.stream.sample_aspect_ratio
        )

    def _wanted(self, clock: Clock, chosen: Sequence[int], last: int) -> list[int]:
        """Those of the chosen times, in ticks, that are taken; `last` is that of the last frame of the file."""
        *seconds, last_s = self._seconds(clock, [*chosen, last])
        wanted = [
            tick
            for tick, at in zip(chosen, seconds, strict=True)
            if self._after_s < at and (not self._margin_s or at <= last_s - self._margin_s)
        ]
        self.count, self.duration_s = len(wanted), clock.duration_s
        return wanted

    def _seconds(self, clock: Clock, ticks: Sequence[int]) -> list[float]:
        times = clock.seconds(ticks)
        start_s = self._sampling.start_s
        found: list[float] = (times if start_s is None else since(times, start_s)).tolist()
        return found

    def _steps(self, decoded: Iterable[VideoFrame], clock: Clock, upright: Upright, shown: list[int]) -> Iterator[Step]:
        for frame in decoded:
            if frame.pts is None or (shown and frame.pts <= shown[-1]):
                continue  # damage made a frame occur twice
            shown.append(frame.pts)
            (time_s,) = self._seconds(clock, [frame.pts])
            if time_s <= self._after_s:
                continue
            self._after_s = time_s
            yield Step(time_s, torch.from_numpy(upright(frame).copy()).permute(2, 0, 1))
