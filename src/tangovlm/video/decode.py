"""Decoding frames of a video file, by default uniformly over the clip, with their timestamps."""

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from av.video.frame import VideoFrame
from torch import Tensor

from tangovlm.errors import VideoError

from .frames import Clock, Frames
from .index import WrongIndexError
from .input import VideoSource
from .input.pictures import Pictures, find_pictures
from .input.sampling import FrameSampling, choose
from .input.spool import reads_streams
from .notes import describe
from .parallel import check_threads, frames_at
from .pixels import Fit, Size, Upright
from .reader import Reader
from .sample import Seek
from .source import MAX_MEGAPIXELS, MAX_PIXELS, local_file, open_video
from .streams import describe_streams, video_streams

Progress = Callable[[int, int], None]


class DecodeObserver(Protocol):
    """Receives progress while a clip is decoded; an exception that it raises ends the decoding."""

    def on_timestamps(self, timestamps_s: Tensor) -> None:
        """The timestamps `(T,)` of the frames that will be decoded, unless the file is damaged."""

    def on_frames(self, pictures: Tensor, count: int) -> None:
        """The first `count` of `pictures (T, 3, H, W)` are decoded and final."""


@reads_streams("path")
def decode(
    path: VideoSource,
    frames: int | FrameSampling | None = None,
    *,
    fps: float | None = None,
    max_frames: int | None = None,
    start_s: float | None = None,
    end_s: float | None = None,
    stream: int | None = None,
    seek: Seek | None = None,
    size: Size = None,
    fit: Fit | None = None,
    progress: Progress | None = None,
    watch: DecodeObserver | None = None,
    pin_memory: bool = False,
    threads: int | None = None,
) -> Frames:
    """Decode `frames` frames, uniformly over a clip or a part of it by presentation time, or `fps` frames per second.

    Both ends are included; a picture that stands still for long is taken once, which a note says. See `sample.uniform`
    for the exact times. The times of all frames are read first, without decoding, see `Reader.timeline`; then only the
    packets that the chosen frames depend on are decoded, from the keyframe on. Memory holds the chosen frames and the
    few that the decoders buffer.

    Parameters
    ----------
    path: a local file; URLs and playlists are refused, and no file but this one is opened. Or an animated WebP or PNG
        file, a folder or a list of pictures, see `find_pictures`, or a binary file object, see `stored`.
    frames: number of frames. If the clip has fewer, all of them are returned, and a note says so. Or a `FrameSampling`
        in place of this and the next arguments.
    fps, max_frames, start_s, end_s: see `FrameSampling`.
    stream: index of the video stream among all streams of the file, as FFmpeg counts them; None for the moving picture
        that FFmpeg prefers. If the file has several, a note says which was read.
    seek: "exact", the default, takes the frames at these times; "keyframe" the nearest keyframes, which is faster if
        they are far apart; "auto" keyframes only where they are dense compared with the frames, see
        `sample.take_keyframes`. A note says how far they are from the times, and `timestamps_s` are those of the frames
        that were taken.
    size: `(H, W)` of the upright frames, scaled while decoding (bicubic) without keeping the aspect ratio, or a
        function that returns it, given the `(H, W)` in which the clip is displayed; None keeps that.
    fit: instead of `size`, a function that returns it, given that H and W and the number of frames.
    progress: called with (frames done, frames in total) before the first frame and after each.
    watch: notified of each frame.
    pin_memory: allocate the frames in page-locked memory, for asynchronous copies to a CUDA device.
    threads: most threads that decode, which does not change the frames of a file without damage; None for as many as
        the process has CPU cores, up to 16. Each decodes parts of the clip if the frames are far apart.

    Raises
    ------
    VideoError: not a readable, self-contained local video with at least one frame of at most 64 megapixels; or
        `size`, `threads` or what `FrameSampling` describes is out of range; or most frames may show damage.
    """
    sampling = FrameSampling.of(
        frames, fps=fps, max_frames=max_frames, start_s=start_s, end_s=end_s, stream=stream, seek=seek
    )
    _check_size(size)
    check_threads(threads)
    if (found := _pictures(path, sampling)) is not None:
        return _decode_pictures(found, sampling, size, fit, progress, watch, pin_memory)
    attempt = partial(_decode_file, local_file(path), sampling, size, fit, progress, watch, pin_memory, threads)
    try:
        return attempt(use_index=True)
    except WrongIndexError:
        return attempt(use_index=False)


def _decode_file(
    file: Path,
    sampling: FrameSampling,
    size: Size,
    fit: Fit | None,
    progress: Progress | None,
    watch: DecodeObserver | None,
    pin_memory: bool,
    threads: int | None,
    *,
    use_index: bool,
) -> Frames:
    """See `decode`, and for `use_index` and `WrongIndexError` `Reader.timeline`."""
    with Reader(file, sampling.stream, threads or 0) as reader:
        timeline = reader.timeline(use_index)
        clock = Clock.of(reader.stream, timeline)
        choice = choose(sampling, timeline, clock, str(file))
        times = choice.times
        if watch is not None:
            watch.on_timestamps(clock.seconds(times))
        wanted = size if fit is None else lambda height, width: fit(height, width, len(times))
        upright = Upright(wanted, reader.stream.sample_aspect_ratio)
        with closing(frames_at(reader, times, timeline, threads)) as decoded:
            pictures, shown = _take(decoded, len(times), upright, progress, watch, pin_memory)
        notes = (*describe(reader, choice.part, clock, choice.asked, shown, upright), *choice.notes)
        if sampling.stream is None and len(video_streams(reader.container)) > 1:
            notes = (describe_streams(reader.container, reader.stream.index), *notes)
    return Frames(
        pixels=pictures,
        timestamps_s=clock.seconds(shown),
        fps=clock.fps,
        duration_s=clock.duration_s,
        notes=notes,
        start_s=clock.start_s,
        aspect=upright.aspect,
        keyframes=choice.replaced,
        excerpt_s=choice.excerpt_s,
    )


@reads_streams("path")
def duration_s(path: VideoSource, *, stream: int | None = None) -> float:
    """Seconds from the first frame of a file to the end of the last, without decoding any.

    Parameters
    ----------
    path, stream: see `decode`.

    Raises
    ------
    VideoError: see `decode`.
    """
    if (found := _pictures(path, FrameSampling(stream=stream))) is not None:
        return found.clock.duration_s
    with Reader(local_file(path), stream) as reader:
        # Reading the times may reopen the file, which replaces the stream.
        timeline = reader.timeline()
        return Clock.of(reader.stream, timeline).duration_s


def check(path: VideoSource, sampling: FrameSampling) -> None:
    """Check that a video can be opened, and has the stream and the start of the part to take.

    Raises
    ------
    VideoError: see `decode`. Damage is found later, by decoding.
    """
    if (found := _pictures(path, sampling)) is not None:
        sampling.check_start(found.clock.duration_s, found.name)
        return
    container, _ = open_video(local_file(path), sampling.stream)
    container.close()
    if sampling.start_s is not None:
        sampling.check_start(duration_s(path, stream=sampling.stream), str(path))


def _pictures(path: VideoSource, sampling: FrameSampling) -> Pictures | None:
    """The pictures of a video that has no streams, at the given rate; None for a video file."""
    found = find_pictures(path, sampling.fps)
    if found is not None and sampling.stream is not None:
        raise VideoError(f"{found.name}: stream={sampling.stream} is given, but pictures have no streams; leave it out")
    return found


def _decode_pictures(
    found: Pictures,
    sampling: FrameSampling,
    size: Size,
    fit: Fit | None,
    progress: Progress | None,
    watch: DecodeObserver | None,
    pin_memory: bool,
) -> Frames:
    clock = found.clock
    choice = choose(sampling, found.timeline(), clock, found.name)
    if watch is not None:
        watch.on_timestamps(clock.seconds(choice.times))
    upright = Upright(size if fit is None else lambda height, width: fit(height, width, len(choice.times)))
    decoded = found.frames_at(choice.times)
    pictures, shown = _take(decoded, len(choice.times), upright, progress, watch, pin_memory)
    return Frames(
        pixels=pictures,
        timestamps_s=clock.seconds(shown),
        fps=clock.fps,
        duration_s=clock.duration_s,
        notes=(*found.describe(choice.asked, len(choice.part.pts)), *choice.notes),
        aspect=upright.aspect,
        excerpt_s=choice.excerpt_s,
    )


def _check_size(size: Size) -> None:
    if size is None or callable(size):
        return
    whole = len(size) == 2 and all(isinstance(side, int) and not isinstance(side, bool) for side in size)
    if not whole or min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
        raise VideoError(
            f"size={size!r}: pass (height, width), positive integers with at most {MAX_MEGAPIXELS} megapixels"
        )


def _take(
    decoded: Iterator[VideoFrame],
    count: int,
    upright: Upright,
    progress: Progress | None,
    watch: DecodeObserver | None,
    pin_memory: bool,
) -> tuple[Tensor, list[int]]:
    """`(T, 3, H, W)` pictures and the ticks of each; fewer than `count` if damage made a frame occur twice."""
    pictures = torch.empty(0, dtype=torch.uint8)
    shown: list[int] = []
    if progress is not None:
        progress(0, count)
    for done, frame in enumerate(decoded, start=1):
        if frame.pts is not None and (not shown or frame.pts > shown[-1]):
            picture = torch.from_numpy(upright(frame).copy())
            if not shown:
                size = (count, 3, *picture.shape[:2])
                pictures = torch.empty(size, dtype=torch.uint8, pin_memory=pin_memory)
            pictures[len(shown)] = picture.permute(2, 0, 1)
            shown.append(frame.pts)
            if watch is not None:
                watch.on_frames(pictures, len(shown))
        if progress is not None:
            progress(done, count)
    return pictures[: len(shown)], shown
