"""Decoding parts of a clip at the same time: each is read by a thread with its own container and decoder.

PyAV releases the interpreter's lock while it reads and decodes. A part begins at a keyframe, as reading in one thread
does after a jump, so the frames are the same. Only what FFmpeg makes of damaged packets may depend on where it began.
"""

import os
import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

from av import FFmpegError
from av.video.frame import VideoFrame

from tangovlm.errors import VideoError

from .index import WrongIndexError
from .packets import Packets
from .reader import WORTH_A_SEEK, Reader
from .sample import Timeline

# Each container of a long file costs some ms, as much as decoding so many pixels.
_WORTH_THREADS = 50_000_000
_MAX_THREADS = 16
# Frames that wait for those before them, for each thread.
_WAITING = 4
# A signal that arrives right before a thread begins to wait does not end the wait.
_NOTICE_S = 0.2


@dataclass
class _Part:
    """Consecutive frames to decode, and those of them that are decoded and not yet taken."""

    times: list[int]
    frames: deque[VideoFrame] = field(default_factory=deque)
    done: bool = False
    error: BaseException | None = None


def check_threads(threads: int | None) -> None:
    """Check a number of threads.

    Raises
    ------
    VideoError: it is not a positive integer, nor None.
    """
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise VideoError(f"threads={threads!r}: the number of threads must be an integer >= 1, or None")


def frames_at(
    reader: Reader, times: Sequence[int], timeline: Timeline, threads: int | None = None
) -> Generator[VideoFrame, None, None]:
    """The frames of `Reader.frames_at`, in the same order. Close the generator to end the threads.

    Parameters
    ----------
    reader: used if one thread suffices; the counts of the other readers are added to its own.
    threads: as many decode at most; None for as many as the process has CPU cores, up to 16.

    Raises
    ------
    VideoError: see `Reader.frames_at`.
    WrongIndexError: this too; if the times are from the index of the file, in place of `VideoError`.
    """
    try:
        yield from _frames_at(reader, times, timeline, threads)
    except (VideoError, FFmpegError) as error:
        if timeline.index is None:
            raise
        raise WrongIndexError from error


def _frames_at(
    reader: Reader, times: Sequence[int], timeline: Timeline, threads: int | None
) -> Generator[VideoFrame, None, None]:
    threads = threads or min(_MAX_THREADS, _cores())
    parts = split(times, timeline)
    workers = min(threads, len(parts))
    pixels = _packets(parts, timeline) * reader.stream.width * reader.stream.height
    if workers < 2 or pixels < _WORTH_THREADS:
        yield from reader.frames_at(times, timeline)
        return
    with _decoding(_Pool(reader, parts, timeline, workers, threads // workers)) as pool:
        yield from pool.frames()


def split(times: Sequence[int], timeline: Timeline) -> list[list[int]]:
    """Consecutive times in parts: between two of them there are frames that need not be decoded."""
    if timeline.counted or timeline.continuous is not None:
        return [list(times)]
    parts = [[times[0]]]
    for before, time in pairwise(times):
        keyframe = timeline.keyframe(time)
        if keyframe is not None and keyframe.order > bisect_left(timeline.pts, before) + WORTH_A_SEEK:
            parts.append([time])
        else:
            parts[-1].append(time)
    return parts


def _packets(parts: Sequence[Sequence[int]], timeline: Timeline) -> int:
    """About how many packets are decoded."""
    starts = [timeline.keyframe(times[0]) for times in parts]
    ends = [bisect_left(timeline.pts, times[-1]) for times in parts]
    return sum(max(1, end - (start.order if start else 0)) for start, end in zip(starts, ends, strict=True))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _PartReader(Reader):
    """A reader for several parts, which ends with `_StoppedError` at the next packet if `stop` is set."""

    def __init__(self, source: Reader, threads: int, stop: threading.Event) -> None:
        self._stop = stop
        try:
            super().__init__(source.file, source.stream.index, threads)
        except OSError as error:
            raise VideoError(f"{source.file}: cannot be read again ({error.strerror}); check the path") from error

    def part(self, times: Sequence[int], timeline: Timeline) -> Iterator[VideoFrame]:
        """`frames_at`, after other parts were read."""
        return self.frames_at(times, timeline, jump=self._place > 0)

    def _demux(self, order: int = 0) -> Packets:
        for packet in super()._demux(order):
            if self._stop.is_set():
                raise _StoppedError
            yield packet


class _Pool:
    """Threads that decode parts, in order; a thread begins the next part once it has finished one."""

    def __init__(self, reader: Reader, parts: Sequence[list[int]], timeline: Timeline, workers: int, each: int) -> None:
        self._reader, self._timeline, self._each = reader, timeline, each
        self._parts = [_Part(times) for times in parts]
        self._left = iter(self._parts)
        self._current = self._parts[0]
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._waiting, self._most = 0, _WAITING * workers
        # Daemons: a second Ctrl-C must not wait for them.
        self.threads = [threading.Thread(target=self._work, daemon=True) for _ in range(workers)]

    def frames(self) -> Iterator[VideoFrame]:
        """The frames of all parts in order; raises what was raised in a thread, after the frames before it."""
        for part in self._parts:
            while True:
                with self._changed:
                    self._current = part
                    self._changed.notify_all()
                    while not (part.frames or part.done):
                        self._changed.wait(_NOTICE_S)
                    if not part.frames:
                        break
                    frame = part.frames.popleft()
                    self._waiting -= 1
                    self._changed.notify_all()
                yield frame
            if part.error is not None:
                raise part.error

    def stop(self) -> None:
        """Let the threads end at their next packet or frame."""
        with self._changed:
            self._stop.set()
            self._changed.notify_all()

    # --- in the threads -------------------------------------------------------------------------------------------

    def _work(self) -> None:
        reader: _PartReader | None = None
        try:
            while (part := self._next_part()) is not None:
                error: BaseException | None = None
                try:
                    if reader is None:
                        reader = _PartReader(self._reader, self._each, self._stop)
                    for frame in reader.part(part.times, self._timeline):
                        self._put(part, frame)
                except BaseException as raised:
                    error = raised
                with self._changed:
                    part.error, part.done = error, True
                    self._changed.notify_all()
                if error is not None:
                    return
        finally:
            if reader is not None:
                reader.container.close()
                with self._changed:
                    self._reader.add_counts(reader)

    def _next_part(self) -> _Part | None:
        with self._changed:
            return None if self._stop.is_set() else next(self._left, None)

    def _put(self, part: _Part, frame: VideoFrame) -> None:
        """Wait until there is room. The part whose frames are taken now always has room for one."""

        def room() -> bool:
            return self._stop.is_set() or self._waiting < self._most or (part is self._current and not part.frames)

        with self._changed:
            self._changed.wait_for(room)
            if self._stop.is_set():
                raise _StoppedError
            part.frames.append(frame)
            self._waiting += 1
            self._changed.notify_all()


@contextmanager
def _decoding(pool: _Pool) -> Iterator[_Pool]:
    """Start the threads of a pool, and wait on exit until they have ended."""
    try:
        for thread in pool.threads:
            thread.start()
        yield pool
    finally:
        pool.stop()
        for thread in pool.threads:
            if thread.is_alive():  # One that Ctrl-C interrupted at its start may begin later, and then does nothing.
                thread.join()


class _StoppedError(Exception):
    """The remaining frames are not needed."""
