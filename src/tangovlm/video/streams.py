"""Choosing the video stream of a file that has several."""

from collections import Counter
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from tangovlm.errors import VideoError

# After so many packets a stream with a single one counts as a still picture.
_PROBED_PACKETS = 500
_IMPAIRED = Disposition.hearing_impaired | Disposition.visual_impaired


def video_streams(container: InputContainer) -> list[VideoStream]:
    """The video streams that are not cover art, and for which there is a decoder."""
    return [stream for stream in _not_covers(container) if stream.codec_context is not None]


def check_stream(container: InputContainer, file: Path, stream: int | None) -> None:
    """Check that the file has a video stream, and the one that was chosen.

    Raises
    ------
    VideoError: it does not, or there is no decoder.
    """
    if not _not_covers(container):
        found = ", ".join(sorted({each.type for each in container.streams})) or "nothing"
        raise VideoError(f"{file}: has no video stream (found: {found}); use a file with video")
    indices = [each.index for each in video_streams(container)]
    if not indices:
        raise VideoError(f"{file}: no decoder for its video codec; convert it to H.264")
    if stream is not None and (isinstance(stream, bool) or not isinstance(stream, int) or stream not in indices):
        raise VideoError(f"{file}: stream={stream!r} is none of its video streams; choose one of {indices}")


def best_stream(container: InputContainer) -> int:
    """The index of the video stream to read if none was chosen. Reads packets if there are several.

    As FFmpeg does: a moving picture before a still one, then a stream that is not for people with impairments, then one
    that is marked as default, then the one with more pixels, then the first.
    """
    streams = video_streams(container)
    if len(streams) == 1:
        return streams[0].index
    moving = _moving(container, streams)

    def rank(stream: VideoStream) -> tuple[bool, bool, bool, int, int]:
        flags = stream.disposition
        own = (stream.index in moving, not flags & _IMPAIRED, bool(flags & Disposition.default))
        return *own, stream.width * stream.height, -stream.index

    return max(streams, key=rank).index


def describe_streams(container: InputContainer, used: int) -> str:
    """One line about the streams of a file that has several."""
    sizes = {stream.index: f"{stream.width} x {stream.height}" for stream in video_streams(container)}
    others = ", ".join(f"stream {index} ({size})" for index, size in sizes.items() if index != used)
    return f"the file has {len(sizes)} video streams: stream {used} ({sizes[used]}) is read, not {others}"


def _not_covers(container: InputContainer) -> list[VideoStream]:
    return [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]


def _moving(container: InputContainer, streams: list[VideoStream]) -> set[int]:
    """The streams with more than one packet."""
    counts = Counter[int]()
    try:
        for number, packet in enumerate(container.demux(streams)):
            counts[packet.stream_index] += packet.size > 0
            if number >= _PROBED_PACKETS or all(counts[stream.index] > 1 for stream in streams):
                break
    except (av.FFmpegError, IndexError):
        pass  # Damage is found when the stream is read.
    return {index for index, count in counts.items() if count > 1}
