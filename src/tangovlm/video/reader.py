"""Reading the frames at chosen times from an open file, with as little decoding as possible."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Self

import av
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from tangovlm.errors import VideoError

from .continuity import Continuous
from .damage import DamageLog, find_disposable, pts_of
from .index import Listed, WrongIndexError
from .packets import PacketReader, Packets
from .sample import Keyframe, Timeline
from .source import MAX_MEGAPIXELS

# A seek flushes the decoder and reads the file again; decoding fewer packets than this is faster.
WORTH_A_SEEK = 8


class Reader(PacketReader):
    """One video stream, read forwards with jumps to keyframes. Use it in a `with` statement.

    Parameters
    ----------
    stream: see `open_video`.
    threads: number of threads of the decoder; 0 for FFmpeg's own choice.

    Attributes
    ----------
    packets_decoded: packets passed to the decoder so far.
    damage: what the decoder made of them.
    """

    def __init__(self, file: Path, stream: int | None = None, threads: int = 0) -> None:
        self._threads = threads
        self.packets_decoded = 0
        self.damage = DamageLog()
        self._shown: VideoFrame | None = None
        self._ahead: VideoFrame | None = None
        self._continuous: Continuous | None = None
        self._index: Sequence[Listed] | None = None
        super().__init__(file, stream)

    def frames_at(self, times: Sequence[int], timeline: Timeline, *, jump: bool = False) -> Iterator[VideoFrame]:
        """The frame on screen at each of the increasing `times` (ticks): the last one with `pts <= time`.

        Between two of them all packets are decoded, or skipped by a jump to the later one's keyframe if that saves
        packets. A frame that cannot be decoded because of damage is replaced by the one before it (at the beginning,
        the one after it); a frame may then occur twice. `jump`: the first keyframe may be behind the current position.

        Raises
        ------
        VideoError: no frame could be decoded.
        WrongIndexError: a packet differs from the index that the times are from.
        """
        self._continuous, self._index = timeline.continuous, timeline.index
        for time in times:
            keyframe = timeline.keyframe(time)
            jumps = keyframe is not None and (jump or keyframe.order > self._place + WORTH_A_SEEK)
            jump = False
            if keyframe is not None and jumps:
                self._drain(timeline)
                self.damage.begin(keyframe.pts)
                self._jump(keyframe)
            frame = self._read_to(time, timeline)
            if keyframe is not None and jumps and (frame is None or frame.is_corrupt or pts_of(frame) > time):
                # With intra refresh the picture is complete only some frames after a keyframe.
                self._decode_again(timeline.before(keyframe), keyframe.pts)
                frame = self._read_to(time, timeline) or frame
            if frame is None:
                why = f"it is damaged, or its frames are larger than {MAX_MEGAPIXELS} megapixels"
                raise VideoError(f"{self.file}: its video cannot be decoded: {why}")
            yield frame
        self._drain(timeline)

    def _read_to(self, time: int, timeline: Timeline) -> VideoFrame | None:
        """The last frame with `pts <= time`; the first after it if there is none, None if there is none at all."""
        while self._shown is None or pts_of(self._shown) != time:
            self._ahead = self._next(timeline) if self._ahead is None else self._ahead
            if self._ahead is None and not timeline.counted and self._threads != 1:
                # The flush ends at the first damaged packet that another thread decodes, and loses those behind it.
                self._threads = 1
                keyframe, found = timeline.keyframe(time), self._shown
                self._decode_again(keyframe, None if keyframe is None else keyframe.pts)
                return self._read_to(time, timeline) or found
            if self._ahead is None or pts_of(self._ahead) > time:
                break
            self._shown, self._ahead = self._ahead, None
        return self._shown or self._ahead

    def count_damaged(self, times: Sequence[int], timeline: Timeline) -> int:
        """How many of the frames at `times`, which were read, show damage."""
        codec, disposable = self.stream.codec_context.name, set[int]()
        if not timeline.counted and (uncertain := self.damage.uncertain(codec)):
            self._reopen()
            header, clock = self.stream.codec_context.extradata, timeline.continuous
            packets = ((clock.pts[order] if clock else packet.pts, packet) for order, packet in self._demux())
            disposable = find_disposable(packets, uncertain, codec, header)
        affected = self.damage.affected(codec, disposable)
        return sum(time in affected for time in times)

    def add_counts(self, other: Self) -> None:
        """Add what another reader of the file has decoded."""
        self.packets_decoded += other.packets_decoded
        self.damage.add(other.damage)

    def _rewind(self) -> None:
        self.stream.codec_context.thread_count = self._threads
        self._place = self._count = 0
        self._shown = self._ahead = None
        super()._rewind()
        self._frames = self._decode(self._packets)

    def _decode(self, packets: Packets) -> Iterator[VideoFrame]:
        for order, packet in packets:
            self._place = order + 1
            if self._index is not None and Listed.of(packet) != self._index[order]:
                raise WrongIndexError
            if self.truncated and packet.is_corrupt:
                continue  # the rest of it is missing
            if self._continuous is not None:
                packet.dts, packet.pts = None, self._continuous.pts[order]
            self.damage.send(packet.pts, key=packet.is_keyframe)
            yield from self._frames_of(packet)
        yield from self._frames_of(None)

    def _frames_of(self, packet: Packet[VideoStream] | None) -> list[VideoFrame]:
        """Decode one packet, or, for None, flush the decoder; a packet that it cannot decode is skipped."""
        self.packets_decoded += packet is not None
        try:
            return self.stream.decode(packet)
        except av.FFmpegError as error:
            if not isinstance(error, EOFError):  # it was flushed before
                self.damage.fail()
            return []

    def _next(self, timeline: Timeline) -> VideoFrame | None:
        """The next frame in presentation order; None at the end."""
        for frame in self._frames:
            if timeline.counted:
                frame.pts = timeline.pts[min(self._count, len(timeline.pts) - 1)]
                self._count += 1
            if frame.pts is not None:
                self.damage.receive(frame, counted=timeline.counted)
                return frame
        return None

    def _drain(self, timeline: Timeline) -> None:
        """Receive the frames that the decoder holds: those that were taken may depend on them."""
        self._frames = iter(self._frames_of(None))
        while self._next(timeline) is not None:
            pass

    def _decode_again(self, keyframe: Keyframe | None, start: int | None) -> None:
        """Go back to `keyframe`; frames from `start` on are decoded for the second time."""
        self.damage.repeat(start)
        self._reopen()
        if keyframe is not None:
            self._jump(keyframe)

    def _jump(self, keyframe: Keyframe) -> None:
        """Continue decoding exactly at `keyframe`.

        Some containers seek by presentation time, others by decoding time, and some stop too late; so the packet at the
        new position is compared with the keyframe. Reading from the beginning is the last resort; if the clock is not
        continuous, a time may occur twice, and the packets up to the keyframe are read, but not decoded.
        """
        self._shown = self._ahead = None
        if self._continuous is not None:
            self._skip(keyframe)
            return
        packets = self._found(keyframe)
        self._place = keyframe.order
        self._frames = self._decode(packets)

    def _skip(self, keyframe: Keyframe) -> None:
        for order, packet in self._packets:
            if order == keyframe.order:
                self.stream.codec_context.flush_buffers()
                self._place = order
                self._frames = self._decode(chain([(order, packet)], self._packets))
                return
        raise self._lost()
