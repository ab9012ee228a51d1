"""Frames of chosen times out of an opened file, decoding no more of it than they need."""

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

# A seek empties the decoder and reads the file anew; fewer packets than these are decoded faster than that.
_WORTH_A_SEEK = 8

# Quoted: PyAV's types have parameters only for the type checker.
Packets: TypeAlias = "Iterator[Packet[VideoStream]]"


class Reader:
    """One video stream, read forwards with jumps to keyframes. Use it in a `with` statement.

    Attributes
    ----------
    packets_decoded: packets handed to the decoder so far.
    packets_damaged: those of them that it could not make sense of.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.packets_decoded = 0
        self.packets_damaged = 0
        self.container, self.stream = open_video(file)
        self._rewound()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.container.close()

    def timeline(self) -> Timeline:
        """Read every packet of the stream once, decoding none.

        This costs one pass over the file, little beside decoding it, and is exact for every container: the times of
        all frames, also at a variable rate, and all keyframes.

        Raises
        ------
        VideoError: no frames, or a file that cannot be read through.
        """
        times: set[int] = set()
        keyframes: list[Keyframe] = []
        try:
            for order, packet in enumerate(_filled(self.container.demux(self.stream))):
                if packet.pts is None:
                    continue
                if packet.is_keyframe:
                    keyframes.append(Keyframe(order, packet.pts, packet.dts))
                if not packet.is_discard:
                    times.add(packet.pts)
        except (av.FFmpegError, IndexError) as error:
            # PyAV looks the stream of a packet up by its number, which damage may have made one that there is not.
            reason = error.strerror if isinstance(error, av.FFmpegError) else "a packet of no stream"
            why = f"cannot be read through ({reason}); it is damaged, copy it again"
            raise VideoError(f"{self.file}: {why}") from error
        if not times:
            raise VideoError(f"{self.file}: its video stream holds no frames; it is damaged, give another file")
        self._reopen()
        return self._ordered(times, keyframes)

    def frames_at(self, times: list[int], timeline: Timeline) -> Iterator[VideoFrame]:
        """The frame on screen at each of the increasing `times` (ticks): the last one with `pts <= time`.

        Between two of them the file is decoded through, or left by a jump to the later one's keyframe where that
        spares packets. A frame that damage kept from being decoded is replaced by the one before it (or, at the
        beginning, after it); then a frame may come twice.

        Raises
        ------
        VideoError: nothing could be decoded.
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
        """Go back to the beginning in the one way that every container bears."""
        self.container.close()
        self.container, self.stream = open_video(self.file)
        self._rewound()

    def _rewound(self) -> None:
        self._place = 0
        self._count = 0
        self._frames = self._decode(_filled(self.container.demux(self.stream)))

    def _decode(self, packets: Packets) -> Iterator[VideoFrame]:
        for packet in packets:
            self._place += 1
            yield from self._frames_of(packet)
        yield from self._frames_of(None)

    def _frames_of(self, packet: Packet[VideoStream] | None) -> list[VideoFrame]:
        """Decode one packet, or with None what the decoder still holds; damage costs the packet, not the video."""
        self.packets_decoded += packet is not None
        try:
            return self.stream.decode(packet)
        except av.FFmpegError:
            self.packets_damaged += packet is not None
            return []

    def _next(self, timeline: Timeline) -> VideoFrame | None:
        """The next frame in order of presentation; None at the end."""
        for frame in self._frames:
            if timeline.counted:
                frame.pts = timeline.pts[min(self._count, len(timeline.pts) - 1)]
                self._count += 1
            if frame.pts is not None:
                return frame
        return None

    def _jump(self, keyframe: Keyframe) -> None:
        """Go on decoding exactly at `keyframe`.

        Containers differ in whether they seek by presentation or by decoding time, and some land late; so what is
        found is compared with what was asked for, and reading from the beginning is the last resort.
        """
        for ticks in (keyframe.pts, keyframe.dts, None):
            if not self._seek(ticks):
                continue
            packets = self._starting_at(keyframe)
            if packets is not None:
                self._place = keyframe.order
                self._frames = self._decode(packets)
                return
        raise VideoError(f"{self.file}: a keyframe was not found again; the file is damaged or being written")

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
        """The packets from `keyframe` on; None if the file is past it."""
        packets = _filled(self.container.demux(self.stream))
        for packet in packets:
            if packet.is_keyframe and packet.pts == keyframe.pts:
                return chain([packet], packets)
            if packet.is_keyframe and packet.pts is not None and packet.pts > keyframe.pts:
                return None
        return None

    def _ordered(self, times: set[int], keyframes: list[Keyframe]) -> Timeline:
        """AVI stores no presentation times, and what FFmpeg makes up for it is wrong once B-frames reorder."""
        counted = self.container.format.name == "avi" and self.stream.codec_context.has_b_frames
        return Timeline(sorted(times), keyframes, counted=bool(counted))


def _filled(packets: Packets) -> Packets:
    """Without the empty packets, by which PyAV asks for the decoder to be emptied and AVI repeats a frame."""
    return (packet for packet in packets if packet.size)


def _pts(frame: VideoFrame) -> int:
    assert frame.pts is not None
    return frame.pts
