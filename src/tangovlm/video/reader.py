"""Reading the frames at chosen times from an open file, with as little decoding as possible."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

import av
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from tangovlm.errors import VideoError

from .sample import Keyframe, Timeline
from .source import MAX_MEGAPIXELS, open_video

# A seek flushes the decoder and reads the file again; decoding fewer packets than this is faster.
_WORTH_A_SEEK = 8

# Quoted: PyAV's types have parameters only for the type checker.
Packets: TypeAlias = "Iterator[Packet[VideoStream]]"


class Reader:
    """One video stream, read forwards with jumps to keyframes. Use it in a `with` statement.

    Attributes
    ----------
    packets_decoded: packets passed to the decoder so far.
    packets_damaged: those that it could not decode.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.packets_decoded = 0
        self.packets_damaged = 0
        self.container, self.stream = open_video(file)
        self._rewind()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.container.close()

    def timeline(self) -> Timeline:
        """Read every packet of the stream once, decoding none.

        This takes one pass over the file, which is cheap compared with decoding, and is exact for every container and
        for variable frame rates: the times of all frames, and all keyframes.

        Raises
        ------
        VideoError: no frames, or a file that cannot be read to its end.
        """
        times: set[int] = set()
        keyframes: list[Keyframe] = []
        try:
            for order, packet in enumerate(_without_empty(self.container.demux(self.stream))):
                if packet.pts is None:
                    continue
                if packet.is_keyframe:
                    keyframes.append(Keyframe(order, packet.pts, packet.dts))
                if not packet.is_discard:
                    times.add(packet.pts)
        except (av.FFmpegError, IndexError) as error:
            # PyAV looks up the stream of a packet by its index, which may be out of range in a damaged file.
            reason = error.strerror if isinstance(error, av.FFmpegError) else "a packet of an unknown stream"
            why = f"cannot be read to its end ({reason}); it is damaged, copy it again"
            raise VideoError(f"{self.file}: {why}") from error
        if not times:
            raise VideoError(f"{self.file}: its video stream has no frames; it is damaged, use another file")
        self._reopen()
        return self._ordered(times, keyframes)

    def frames_at(self, times: list[int], timeline: Timeline) -> Iterator[VideoFrame]:
        """The frame on screen at each of the increasing `times` (ticks): the last one with `pts <= time`.

        Between two of them all packets are decoded, or skipped by a jump to the later one's keyframe if that saves
        packets. A frame that cannot be decoded because of damage is replaced by the one before it (at the beginning,
        the one after it); a frame may then occur twice.

        Raises
        ------
        VideoError: no frame could be decoded.
        """
        shown: VideoFrame | None = None
        ahead: VideoFrame | None = None
        for time in times:
            keyframe = timeline.keyframe(time)
            if keyframe is not None and keyframe.order > self._place + _WORTH_A_SEEK:
                self._jump(keyframe)
                shown = ahead = None
            while shown is None or _pts(shown) != time:
                ahead = self._next(timeline) if ahead is None else ahead
                if ahead is None or _pts(ahead) > time:
                    break
                shown, ahead = ahead, None
            frame = ahead if shown is None else shown
            if frame is None:
                why = f"it is damaged, or its frames are larger than {MAX_MEGAPIXELS} megapixels"
                raise VideoError(f"{self.file}: its video cannot be decoded: {why}")
            yield frame

    def _reopen(self) -> None:
        """Return to the beginning by reopening the file, which works for every container."""
        self.container.close()
        self.container, self.stream = open_video(self.file)
        self._rewind()

    def _rewind(self) -> None:
        self._place = 0
        self._count = 0
        self._frames = self._decode(_without_empty(self.container.demux(self.stream)))

    def _decode(self, packets: Packets) -> Iterator[VideoFrame]:
        for packet in packets:
            self._place += 1
            yield from self._frames_of(packet)
        yield from self._frames_of(None)

    def _frames_of(self, packet: Packet[VideoStream] | None) -> list[VideoFrame]:
        """Decode one packet, or, for None, flush the decoder; a damaged packet is skipped."""
        self.packets_decoded += packet is not None
        try:
            return self.stream.decode(packet)
        except av.FFmpegError:
            self.packets_damaged += packet is not None
            return []

    def _next(self, timeline: Timeline) -> VideoFrame | None:
        """The next frame in presentation order; None at the end."""
        for frame in self._frames:
            if timeline.counted:
                frame.pts = timeline.pts[min(self._count, len(timeline.pts) - 1)]
                self._count += 1
            if frame.pts is not None:
                return frame
        return None

    def _jump(self, keyframe: Keyframe) -> None:
        """Continue decoding exactly at `keyframe`.

        Some containers seek by presentation time, others by decoding time, and some stop too late; so the packet at the
        new position is compared with the keyframe. Reading from the beginning is the last resort.
        """
        for ticks in (keyframe.pts, keyframe.dts, None):
            if not self._seek(ticks):
                continue
            packets = self._starting_at(keyframe)
            if packets is not None:
                self._place = keyframe.order
                self._frames = self._decode(packets)
                return
        raise VideoError(f"{self.file}: a keyframe could not be found again; the file is damaged or being written")

    def _seek(self, ticks: int | None) -> bool:
        if ticks is None:
            self._reopen()
            return True
        try:
            self.container.seek(ticks, stream=self.stream)
        except av.FFmpegError:
            return False
        return True

    def _starting_at(self, keyframe: Keyframe) -> Packets | None:
        """The packets from `keyframe` on; None if the position is past it."""
        packets = _without_empty(self.container.demux(self.stream))
        for packet in packets:
            if packet.is_keyframe and packet.pts == keyframe.pts:
                return chain([packet], packets)
            if packet.is_keyframe and packet.pts is not None and packet.pts > keyframe.pts:
                return None
        return None

    def _ordered(self, times: set[int], keyframes: list[Keyframe]) -> Timeline:
        """AVI stores no presentation times, and those that FFmpeg generates are wrong if B-frames reorder frames."""
        counted = self.container.format.name == "avi" and self.stream.codec_context.has_b_frames
        return Timeline(sorted(times), keyframes, counted=bool(counted))


def _without_empty(packets: Packets) -> Packets:
    """Without empty packets, which PyAV uses to flush the decoder and AVI to repeat a frame."""
    return (packet for packet in packets if packet.size)


def _pts(frame: VideoFrame) -> int:
    assert frame.pts is not None
    return frame.pts
