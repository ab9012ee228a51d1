"""Opening untrusted video files safely: local, self-contained, of limited size."""

import os
import re
import stat
import struct
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.format import Flags
from av.stream import Discard
from av.video.stream import VideoStream

from tangovlm.errors import VideoError

from .continuity import ClockRules
from .streams import best_stream, check_stream, video_streams

MAX_MEGAPIXELS = 64
MAX_PIXELS = MAX_MEGAPIXELS * 10**6

# Containers that include their data. Playlists (HLS, DASH, concat) and image sequences make FFmpeg open other files; a
# demuxer that is not listed here is refused after probing, before it reads a header.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,mxf,ivf,gif"
# For the decoder: stops frames whose size is not in the header before memory is allocated. Decoders count padding.
_DECODER_LIMIT = {"max_pixels": str(MAX_PIXELS * 5 // 4)}
# A clock that starts anew looks to FFmpeg like one that wraps around; `continuity` tells them apart.
_CLOCK = {"correct_ts_overflow": "0"}
_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": _FORMATS, **_DECODER_LIMIT, **_CLOCK}
_WRAP_BITS = 33
_GAP_S, _STILL_S, _BACK_S = 10, 600, 1

_PLAYLISTS = {b"#EXTM3U": "HLS", b"ffconcat": "concat", b"<?xml": "XML (DASH)", b"<MPD": "DASH"}
_BOXES = {b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"sidx", b"mfra", b"free", b"skip", b"wide", b"uuid", b"meta"}
_NEEDED_BOXES = {b"ftyp", b"styp", b"moov", b"moof", b"mdat"}
_MATROSKA = b"\x1aE\xdf\xa3"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def local_file(path: object) -> Path:
    """The absolute path of a regular, non-empty file that is not a playlist.

    Raises
    ------
    VideoError: a URL, a missing file, a directory or device, an empty file, a playlist.
    """
    if not isinstance(path, str | os.PathLike) or not isinstance(name := os.fspath(path), str):
        raise VideoError(f"{path!r}: the path of a video must be str or os.PathLike, not {type(path).__name__}")
    if not name:
        raise VideoError("the path of the video is empty; pass the path of a video file")
    if _URL.match(name):
        raise VideoError(f"{name}: URLs are not opened; download the video and pass the path of the file")
    try:
        status = os.stat(name)
        if not stat.S_ISREG(status.st_mode):
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise VideoError(f"{name}: {kind}; pass the path of a video file")
        with open(name, "rb") as file:
            head = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
    except (OSError, ValueError) as error:
        if isinstance(error, VideoError):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise VideoError(f"{name}: cannot be read ({reason}); check the path") from error
    if status.st_size == 0:
        raise VideoError(f"{name}: the file is empty; copy it again, or use another")
    for mark, kind in _PLAYLISTS.items():
        if head.startswith(mark):
            raise VideoError(f"{name}: a playlist ({kind}) that refers to other files; pass the video file itself")
    return Path(os.path.abspath(name))


def open_video(file: Path, stream: int | None = None) -> tuple[InputContainer, VideoStream]:
    """Open a file from `local_file` and choose its video stream; the caller closes the container.

    Parameters
    ----------
    stream: index of the stream in the file; None for the one of `best_stream`.

    Raises
    ------
    VideoError: a file that is cut off before its index, not a video, an unsupported container, no such video stream,
        no decoder, or frames of more than `MAX_PIXELS` pixels.
    """
    container = _open(file)
    try:
        if not container.streams and is_truncated(file):
            raise VideoError(_describe_failure(file))
        check_stream(container, file, stream)
        if stream is None:
            several = len(video_streams(container)) > 1
            stream = best_stream(container)
            if several:  # packets were read
                container.close()
                container = _open(file)
        chosen = _usable(container, file, stream)
    except BaseException:
        container.close()
        raise
    for other in container.streams:
        if other.index != chosen.index:
            other.discard = Discard.all
    chosen.codec_context.options = dict(_DECODER_LIMIT)
    chosen.thread_type = "AUTO"
    return container, chosen


def end_of_file_s(file: Path) -> float:
    """The end of the last packet of any stream, in seconds on the file's clock, by reading all packets.

    Raises
    ------
    VideoError: see `open_video`.
    """
    end_s = 0.0
    with _open(file) as container, suppress(av.FFmpegError, IndexError):
        for packet in container.demux():
            if packet.pts is not None and packet.time_base is not None:
                end_s = max(end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    return end_s


def clock_rules(container: InputContainer, stream: VideoStream) -> ClockRules:
    """What is no continuous clock in a container.

    Transport and program streams store 33 bits, and are often joined or interrupted: there long gaps may be a jump of
    the clock. In other containers they are frames that are shown so long.
    """
    tick_s = stream.time_base or Fraction(1)
    wrap = 1 << _WRAP_BITS if container.format.name in ("mpegts", "mpeg") else None
    if Flags.ts_discont & Flags(container.format.flags):
        return ClockRules(wrap, 0, int(_GAP_S / tick_s), int(_STILL_S / tick_s))
    return ClockRules(wrap, int(_BACK_S / tick_s), None)


def _open(file: Path) -> InputContainer:
    try:
        return av.open(str(file), "r", options=_OPTIONS, metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        raise VideoError(_describe_failure(file)) from error


def is_truncated(file: Path) -> bool:
    """Whether an mp4 or mov file ends inside one of the boxes with its index and its samples."""
    length = file.stat().st_size
    place, kind = 0, b""
    with file.open("rb") as opened:
        while place + 8 <= length:
            opened.seek(place)
            # The 64-bit length is often absent; if the file ends inside it, the padding makes it exceed the file.
            size, kind, long_size = struct.unpack(">I4sQ", opened.read(16).ljust(16, b"\xff"))
            size = long_size if size == 1 else size
            if kind not in _BOXES or size < 8:
                return False
            place += size
    return place > length and kind in _NEEDED_BOXES


def _describe_failure(file: Path) -> str:
    if is_truncated(file):
        return f"{file}: the file ends before its index does; it is truncated, copy it again"
    with file.open("rb") as opened:
        head = opened.read(12)
    if head[4:8] in _BOXES:
        return f"{file}: an mp4 or mov file without a readable index; it is damaged, copy it again"
    if head.startswith(_MATROSKA) or (head.startswith(b"RIFF") and head.endswith(b"AVI ")):
        return f"{file}: an mkv, webm or avi file with an unreadable header; it is damaged, copy it again"
    return f"{file}: not a video in a supported container (mp4, mov, mkv, webm, avi, ts, mpg, flv, ogv, wmv, mxf, gif)"


def _usable(container: InputContainer, file: Path, index: int) -> VideoStream:
    stream = next(stream for stream in video_streams(container) if stream.index == index)
    if stream.width * stream.height > MAX_PIXELS:
        size = f"{stream.width} x {stream.height} pixels"
        raise VideoError(
            f"{file}: frames of {size}; up to {MAX_MEGAPIXELS} megapixels are accepted, scale the video down"
        )
    return stream
