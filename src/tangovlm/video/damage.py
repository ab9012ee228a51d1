"""Which frames show damage: those that the decoder concealed or lost, and those that depend on them.

FFmpeg decodes a damaged file as far as it can. It fills what it cannot decode from neighbours and marks that frame, or
returns an error; frames that are predicted from it show the damage without a mark, up to the next keyframe.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple, Self

import av
from av.buffer import Buffer
from av.video.frame import PictureType, VideoFrame

# Codecs in which other frames may depend on a B-frame; whether they do is in the header of its packet.
_REFERENCE_B_FRAMES = ("h264", "hevc")
# A run of frames without damage is forgotten but for the last, on which damage that is found later may depend.
_RUN, _KEPT = 2048, 64


class _Decoded(NamedTuple):
    """A frame: its time, whether it is damaged itself, a keyframe, or a B-frame; lost frames count as damaged."""

    pts: int
    damaged: bool
    key: bool
    bidirectional: bool


class _Run:
    """Packets from a keyframe on, and the frames that the decoder made of them, in order of presentation.

    Parameters
    ----------
    start: time of the keyframe; None at the beginning of the file. Frames before it lack what they depend on; they are
        decoded, but not taken.
    """

    def __init__(self, start: int | None) -> None:
        self.start = start
        self.sent: list[int] = []
        self.keys = set[int]()
        self.failed = set[int]()
        self.frames: list[_Decoded] = []
        self.damaged = False

    def append(self, frame: _Decoded) -> None:
        self.damaged = self.damaged or frame.damaged
        self.frames.append(frame)
        if len(self.frames) > _RUN and not self.damaged:
            del self.frames[:-_KEPT]
            self.sent = [pts for pts in self.sent if pts >= self.frames[0].pts]

    def complete(self, codec: str) -> list[_Decoded]:
        """With the frames that were lost, from the keyframe on.

        The H.264 decoder withholds frames until the picture is complete: those are not lost. Older decoders lose the
        frame that they would return when they fail, and return the one at which they failed later.
        """
        lost = set(self.sent).difference(frame.pts for frame in self.frames)
        frames = self.frames
        if codec == "h264":
            lost = {pts for pts in lost if frames and pts > frames[0].pts}
        elif codec != "hevc":
            frames = [frame._replace(damaged=True) if frame.pts in self.failed else frame for frame in frames]
        frames = [*frames, *(_Decoded(pts, True, False, False) for pts in lost)]
        return sorted(frame for frame in frames if self.start is None or frame.pts >= self.start)


class DamageLog:
    """Records what a decoder makes of its packets; all times are in ticks."""

    def __init__(self) -> None:
        self._run = _Run(None)
        self._damaged_runs: list[_Run] = []

    def begin(self, start: int | None) -> None:
        """The decoder was flushed, and continues at the keyframe at `start`."""
        if self._run.damaged:
            self._damaged_runs.append(self._run)
        self._run = _Run(start)

    def repeat(self, start: int | None) -> None:
        """As `begin`, but the packets from `start` on are decoded for the second time: forget the first."""
        self._run.sent = [pts for pts in self._run.sent if start is not None and pts < start]
        self._run.frames = [frame for frame in self._run.frames if start is not None and frame.pts < start]
        self.begin(start)

    def send(self, pts: int | None, *, key: bool) -> None:
        """A packet, with a keyframe or not, is passed to the decoder."""
        if pts is not None:
            self._run.sent.append(pts)
            if key:
                self._run.keys.add(pts)

    def fail(self) -> None:
        """The decoder returned an error: some frame is lost."""
        self._run.damaged = True
        self._run.failed.update(self._run.sent[-1:])

    def receive(self, frame: VideoFrame, *, counted: bool) -> None:
        """The next frame in order of presentation; `counted`: its time is not that of its packet."""
        if frame.pts is not None:
            # The MPEG-2 decoder marks the frame after a keyframe that it cannot decode as one.
            key = bool(frame.key_frame) and (counted or frame.pts in self._run.keys)
            self._run.append(_Decoded(frame.pts, frame.is_corrupt, key, frame.pict_type == PictureType.B))

    def add(self, other: Self) -> None:
        """Add what another decoder made of other packets of the file."""
        self._damaged_runs += other._runs()

    def uncertain(self, codec: str) -> set[int]:
        """The damaged frames on which others may depend or not, as far as the frames tell."""
        if codec not in _REFERENCE_B_FRAMES:
            return set()
        every = (frame for run in self._runs() for frame in run.complete(codec))
        return {frame.pts for frame in every if frame.damaged and not frame.key}

    def affected(self, codec: str, disposable: set[int]) -> set[int]:
        """The times of the frames that are damaged or depend on frames that are.

        Parameters
        ----------
        disposable: those of `uncertain` on which no frame depends.
        """
        times = set[int]()
        for run in self._runs():
            frames = run.complete(codec)
            spreads = False
            for place, frame in enumerate(frames):
                alone = frame.pts in disposable or (frame.bidirectional and codec not in _REFERENCE_B_FRAMES)
                spreads = frame.damaged if frame.key else spreads or (frame.damaged and not alone)
                if spreads or frame.damaged:
                    times.add(frame.pts)
                if frame.damaged and not alone:
                    times.update(_before(frames, place))
        return times

    def _runs(self) -> list[_Run]:
        return [*self._damaged_runs, self._run] if self._run.damaged else self._damaged_runs


def pts_of(frame: VideoFrame) -> int:
    """The time of a frame that has one."""
    assert frame.pts is not None
    return frame.pts


def _before(frames: list[_Decoded], place: int) -> Iterator[int]:
    """B-frames right before a frame, which may depend on it: they are presented before it, but decoded after it."""
    while place and frames[place - 1].bidirectional:
        place -= 1
        yield frames[place].pts


def find_disposable(
    packets: Iterable[tuple[int | None, Buffer]], times: set[int], codec: str, extradata: bytes | None
) -> set[int]:
    """Those of `times` at which there is a frame on which no other depends.

    Parameters
    ----------
    packets: time and content of the packets of the file.
    codec, extradata: see `is_disposable`.
    """
    disposable = set[int]()
    with suppress(av.FFmpegError):
        for pts, packet in packets:
            if pts in times and pts is not None and is_disposable(bytes(packet), codec, extradata):
                disposable.add(pts)
    return disposable


def is_disposable(data: bytes, codec: str, extradata: bytes | None) -> bool:
    """Whether no frame depends on the one in a packet, by the header of its first slice (H.264 7.3.1, HEVC 7.3.1.2).

    Parameters
    ----------
    extradata: the header of the stream; in mp4 and mkv it has the number of bytes before each unit of a packet.
    """
    for unit in _units(data, codec, extradata):
        if codec == "h264" and unit & 31 in (1, 2, 5):
            return unit >> 5 & 3 == 0
        if codec == "hevc" and unit >> 1 & 63 < 32:
            return unit >> 1 & 63 in range(0, 16, 2)
    return False


def _units(data: bytes, codec: str, extradata: bytes | None) -> Iterable[int]:
    """The first byte of every unit (NAL) of a packet."""
    if extradata and extradata[0] == 1:
        header = 4 if codec == "h264" else 21
        length = 1 + (extradata[header] & 3) if len(extradata) > header else 4
        place = 0
        while place + length < len(data):
            yield data[place + length]
            place += length + int.from_bytes(data[place : place + length], "big")
        return
    place = data.find(b"\0\0\1")
    while 0 <= place < len(data) - 3:
        yield data[place + 3]
        place = data.find(b"\0\0\1", place + 3)
