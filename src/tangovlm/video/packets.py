"""The packets of a video stream: their times, and the positions from which they are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

import av
from av.packet import Packet
from av.video.stream import VideoStream

from tangovlm.errors import VideoError

from .continuity import Stamp, continuous
from .index import Listed, is_indexed, read_index
from .sample import Keyframe, Timeline
from .source import clock_rules, is_truncated, open_video

# Quoted: PyAV's types have parameters only for the type checker.
Packets: TypeAlias = "Iterator[tuple[int, Packet[VideoStream]]]"


class PacketReader:
    """Reads the packets of one video stream, forwards or from a keyframe on. Use it in a `with` statement.

    Parameters
    ----------
    stream: see `open_video`.

    Attributes
    ----------
    truncated: see `is_truncated`.
    packets_unknown: packets of streams that the file did not have when it was opened, skipped when its times were read.
    """

    def __init__(self, file: Path, stream: int | None = None) -> None:
        self.file = file
        self.truncated = is_truncated(file)
        self.packets_unknown = 0
        self._skipped = 0
        self.container, self.stream = open_video(file, stream)
        self._rewind()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.container.close()

    def timeline(self, use_index: bool = True) -> Timeline:
        """The times of all frames, and all keyframes, without decoding any.

        They are read from the index of the file if it has one that is complete: the first packet and those from the
        last keyframe on are compared with it here, all others when they are decoded. Otherwise this takes one pass over
        the packets, which is cheap compared with decoding, and is exact for every container and for variable frame
        rates.

        Raises
        ------
        VideoError: no frames, or a file that cannot be read to its end.
        """
        if use_index and not self.truncated and is_indexed(self.container):
            index = self._checked_index()
            self._reopen()
            if index is not None:
                return self._from_index(index)
        stamps: list[Stamp] = []
        keyframes: list[int] = []
        hidden: set[int] = set()
        try:
            for order, packet in self._demux():
                stamps.append(Stamp(packet.pts, packet.dts, packet.is_keyframe, packet.is_corrupt))
                if packet.is_keyframe:
                    keyframes.append(order)
                if packet.is_discard or (self.truncated and packet.is_corrupt):
                    hidden.add(order)  # not shown, or its rest is missing
        except av.FFmpegError as error:
            why = f"cannot be read to its end ({error.strerror}); it is damaged, copy it again"
            raise VideoError(f"{self.file}: {why}") from error
        self.packets_unknown = self._skipped
        timeline = self._ordered(stamps, keyframes, hidden)
        self._reopen()
        return timeline

    def _rewind(self) -> None:
        """Begin anew with the container, which is at its beginning."""
        self._packets = self._demux()

    def _reopen(self) -> None:
        """Return to the beginning by reopening the file, which works for every container."""
        index = self.stream.index  # closing the container frees the stream
        self.container.close()
        self.container, self.stream = open_video(self.file, index)
        self._rewind()

    def _demux(self, order: int = 0) -> Packets:
        """The packets of the stream with their places in decoding order, from the current position, which is `order`.

        Without empty packets, which PyAV uses to flush the decoder and AVI to repeat a frame.
        """
        while True:
            try:
                for packet in self.container.demux(self.stream):
                    if packet.size:
                        yield order, packet
                        order += 1
            except IndexError:
                # PyAV looks up the stream of a packet by its index. A stream that begins later in the file, or is one
                # only because of damage, has none.
                self._skipped += 1
            else:
                return

    def _found(self, keyframe: Keyframe) -> Packets:
        for ticks in (keyframe.pts, keyframe.dts, None):
            if self._seek(ticks):
                packets = self._starting_at(keyframe)
                if packets is not None:
                    return packets
        raise self._lost()

    def _lost(self) -> VideoError:
        return VideoError(f"{self.file}: a keyframe could not be found again; the file is damaged or being written")

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
        packets = self._demux(keyframe.order)
        for _, packet in packets:
            if packet.is_keyframe and packet.pts == keyframe.pts:
                self._packets = self._demux(keyframe.order + 1)
                return chain([(keyframe.order, packet)], self._packets)
            if packet.is_keyframe and packet.pts is not None and packet.pts > keyframe.pts:
                return None
        return None

    def _checked_index(self) -> list[Listed] | None:
        """The packets by the index of the file; None if it has none that is complete, or packets differ from it."""
        try:
            first = next(self._packets, None)
            index = None if first is None else read_index(self.file, self.stream, first[1])
            if first is None or index is None or Listed.of(first[1]) != index[0]:
                return None
            order = max((order for order, packet in enumerate(index) if packet.is_keyframe), default=0)
            pts = index[order].pts
            assert pts is not None
            rest = [Listed.of(packet) for _, packet in self._found(Keyframe(order, pts, index[order].dts))]
        except (av.FFmpegError, OSError, VideoError):
            return None
        return index if rest == index[order:] else None

    def _from_index(self, index: list[Listed]) -> Timeline:
        stamps = [Stamp(packet.pts, packet.dts) for packet in index]
        keyframes = [order for order, packet in enumerate(index) if packet.is_keyframe]
        hidden = {order for order, packet in enumerate(index) if packet.is_discard}
        return replace(self._ordered(stamps, keyframes, hidden), index=index)

    def _ordered(self, stamps: list[Stamp], keyframes: list[int], hidden: set[int]) -> Timeline:
        """AVI stores no presentation times, and those that FFmpeg generates are wrong if B-frames reorder frames."""
        tick_s = self.stream.time_base or Fraction(1)
        interval = max(1, round(1 / (self.stream.average_rate or 25) / tick_s))
        clock = continuous(stamps, clock_rules(self.container, self.stream), interval)
        counted = self.container.format.name == "avi" and self.stream.codec_context.has_b_frames
        timeline = Timeline.of(stamps, clock, keyframes, hidden, counted=bool(counted))
        if not timeline.pts:
            why = "it is truncated, copy it again" if self.truncated else "it is damaged, use another file"
            raise VideoError(f"{self.file}: its video stream has no frames; {why}")
        return timeline
