"""What the boxes of an mp4 or mov file say, without reading its samples: the times of all frames, and the duration.

FFmpeg's index has the decoding time of every sample; the table of composition offsets has what is missing for the
presentation times. Files in which the packets may differ (fragments, several edits, samples that are left out) are not
read this way, and the reader compares the packets that it reads with the index.
"""

import struct
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

_MOV = "mov,mp4,m4a,3gp,3g2,mj2"
# FFmpeg ignores tables with larger offsets.
_MAX_OFFSET = 1 << 28
_MAX_BOXES = 10_000
# FFmpeg's flags of an entry.
_KEYFRAME, _DISCARD = 1, 2


class WrongIndexError(Exception):
    """The packets of the file are not those of its index."""


class Listed(NamedTuple):
    """What the index has of a packet: times in ticks, and its place and number of bytes in the file."""

    pts: int | None
    dts: int | None
    pos: int | None
    size: int
    is_keyframe: bool
    is_discard: bool

    @classmethod
    def of(cls, packet: "Packet[VideoStream]") -> Self:
        """The same of a packet that was read."""
        return cls(packet.pts, packet.dts, packet.pos, packet.size, packet.is_keyframe, packet.is_discard)


def is_indexed(container: InputContainer) -> bool:
    """Whether files of this format may have an index of all packets."""
    return container.format.name == _MOV


def read_index(file: Path, stream: VideoStream, first: "Packet[VideoStream]") -> list[Listed] | None:
    """All packets in decoding order; None if the container has no such index, or one that may not be complete.

    Parameters
    ----------
    first: the first packet of the stream, which gives the offset of its presentation times.
    """
    if first.pts is None:
        return None
    entries = [(each.timestamp, each.pos, each.size, each.flags) for each in stream.index_entries]
    if not entries or min(size for _, _, size, _ in entries) < 1:
        return None
    # In increasing order every sample occurs once, if they are as many as the samples of the file.
    places = [pos for _, pos, _, _ in entries]
    if places[0] < 0 or any(a >= b for a, b in pairwise(places)):
        return None
    offsets = _composition_offsets(file, stream.id, len(entries))
    if offsets is None or max(pos + size for _, pos, size, _ in entries) > file.stat().st_size:
        return None
    shift = first.pts - (entries[0][0] + offsets[0])
    return [
        Listed(dts + offset + shift, dts, pos, size, bool(flags & _KEYFRAME), bool(flags & _DISCARD))
        for (dts, pos, size, flags), offset in zip(entries, offsets, strict=True)
    ]


def fragments_s(file: Path) -> float | None:
    """The duration in seconds that a fragmented file announces, 0.0 if it announces none; None for other files.

    FFmpeg's duration of the stream is that of the fragments that have begun.
    """
    announced_s = 0.0
    with file.open("rb") as opened, suppress(struct.error):
        for kind, span in _boxes(opened, (0, file.stat().st_size)):
            if kind == b"moof":
                return announced_s
            if kind == b"moov":
                announced_s = max(announced_s, _extended_s(opened, span))
            elif kind == b"sidx":
                announced_s = max(announced_s, _segments_s(opened, span))
    return None


def _extended_s(opened: BinaryIO, moov: tuple[int, int]) -> float:
    """The duration with all fragments in a `moov` box."""
    header, extended = _find(opened, moov, b"mvhd"), _find(opened, moov, b"mvex", b"mehd")
    if header is None or extended is None:
        return 0.0
    place = header[0] + (20 if _bytes(opened, (header[0], header[0] + 1)) == b"\1" else 12)
    (scale,) = _numbers(opened, (place, place + 4), ">I")
    layout = ">Q" if _bytes(opened, (extended[0], extended[0] + 1)) == b"\1" else ">I"
    (ticks,) = _numbers(opened, (extended[0] + 4, extended[0] + 4 + struct.calcsize(layout)), layout)
    return ticks / scale if scale else 0.0


def _segments_s(opened: BinaryIO, sidx: tuple[int, int]) -> float:
    """The sum of the durations in a `sidx` box."""
    start = sidx[0]
    (scale,) = _numbers(opened, (start + 8, start + 12), ">I")
    place = start + (28 if _bytes(opened, (start, start + 1)) == b"\1" else 20)
    (count,) = _numbers(opened, (place + 2, place + 4), ">H")
    entries = struct.iter_unpack(">III", _bytes(opened, (place + 4, place + 4 + 12 * count)))
    ticks = sum(duration for _, duration, _ in entries)
    return ticks / scale if scale else 0.0


def _composition_offsets(file: Path, track: int, count: int) -> list[int] | None:
    """Presentation minus decoding time of each sample, up to a constant.

    None if the track has another number of samples, fragments, or more than one edit.
    """
    try:
        with file.open("rb") as opened:
            return _offsets(opened, file.stat().st_size, track, count)
    except (OSError, struct.error):
        return None


def _offsets(opened: BinaryIO, length: int, track: int, count: int) -> list[int] | None:
    moov = [span for kind, span in _boxes(opened, (0, length)) if kind == b"moov"]
    if len(moov) != 1:
        return None
    inside = list(_boxes(opened, moov[0]))
    if any(kind in (b"mvex", b"cmov") for kind, _ in inside):
        return None
    tracks = [span for kind, span in inside if kind == b"trak" and _track_id(opened, span) == track]
    if len(tracks) != 1:
        return None
    edits = _find(opened, tracks[0], b"edts", b"elst")
    if edits is not None and not _single_edit(opened, edits):
        return None
    samples = _find(opened, tracks[0], b"mdia", b"minf", b"stbl")
    sizes = None if samples is None else _find(opened, samples, b"stsz")
    if samples is None or sizes is None or _numbers(opened, (sizes[0] + 8, sizes[0] + 12), ">I") != (count,):
        return None
    table = _find(opened, samples, b"ctts")
    if table is None:
        return [0] * count
    (number,) = _numbers(opened, (table[0] + 4, table[0] + 8), ">I")
    if number > count:
        return None
    offsets: list[int] = []
    for repeats, offset in struct.iter_unpack(">Ii", _bytes(opened, (table[0] + 8, table[0] + 8 + 8 * number))):
        if not 1 <= repeats <= count - len(offsets) or abs(offset) > _MAX_OFFSET:
            return None
        offsets += [offset] * repeats
    return offsets if len(offsets) == count else None


def _single_edit(opened: BinaryIO, edits: tuple[int, int]) -> bool:
    """Whether all of the track is shown once: at most one edit that is no delay, at normal speed."""
    version, _, number = struct.unpack(">B3sI", _bytes(opened, (edits[0], edits[0] + 8)))
    layout = struct.Struct(">Qqi" if version == 1 else ">Iii")
    if number > _MAX_BOXES:
        return False
    shown = [
        (start, rate)
        for _, start, rate in layout.iter_unpack(_bytes(opened, (edits[0] + 8, edits[0] + 8 + number * layout.size)))
        if start != -1
    ]
    return len(shown) <= 1 and all(rate == 1 << 16 for _, rate in shown)


def _track_id(opened: BinaryIO, span: tuple[int, int]) -> int | None:
    header = _find(opened, span, b"tkhd")
    if header is None:
        return None
    start = header[0] + (20 if _bytes(opened, (header[0], header[0] + 1)) == b"\1" else 12)
    (number,) = _numbers(opened, (start, start + 4), ">I")
    return number


def _find(opened: BinaryIO, span: tuple[int, int], *path: bytes) -> tuple[int, int] | None:
    """Where the contents of a box are, given the kinds of the boxes around it, outermost first; None if absent."""
    for kind in path:
        found = next((inner for each, inner in _boxes(opened, span) if each == kind), None)
        if found is None:
            return None
        span = found
    return span


def _boxes(opened: BinaryIO, span: tuple[int, int]) -> Iterator[tuple[bytes, tuple[int, int]]]:
    """The kinds of the boxes in a part of the file, and where their contents begin and end."""
    place, end = span
    for _ in range(_MAX_BOXES):
        if place + 8 > end:
            return
        size, kind = struct.unpack(">I4s", _bytes(opened, (place, place + 8)))
        header = 8
        if size == 1:
            (size,) = _numbers(opened, (place + 8, place + 16), ">Q")
            header = 16
        elif size == 0:
            size = end - place
        if size < header or place + size > end:
            return
        yield kind, (place + header, place + size)
        place += size


def _numbers(opened: BinaryIO, span: tuple[int, int], layout: str) -> tuple[int, ...]:
    return struct.unpack(layout, _bytes(opened, span))


def _bytes(opened: BinaryIO, span: tuple[int, int]) -> bytes:
    opened.seek(span[0])
    return opened.read(span[1] - span[0])
