"""Messages for the user about how a clip was decoded."""

from collections.abc import Sequence

import av
from av.format import Flags

from tangovlm.errors import VideoError

from .frames import Clock
from .index import fragments_s
from .pixels import Upright
from .reader import Reader
from .sample import Timeline
from .source import end_of_file_s


def describe(
    reader: Reader, timeline: Timeline, clock: Clock, asked: int, shown: Sequence[int], upright: Upright
) -> tuple[str, ...]:
    """Everything about a decoded clip that its user may not expect.

    Parameters
    ----------
    asked: number of frames that were requested.
    shown: ticks of those that were decoded.

    Raises
    ------
    VideoError: most of them show damage.
    """
    notes = []
    announced_s = _announced_s(reader, clock)
    if reader.truncated:
        notes.append(f"the file is truncated: the {clock.duration_s:.1f} s that it has are used{_of(reader, clock)}")
    elif announced_s is not None:
        notes.append(f"the file announces {announced_s:.1f} s but has {clock.duration_s:.1f} s: it may be truncated")
    available = len(timeline.pts)
    if asked > available:
        notes.append(f"{asked} frames were requested, the clip has {available}: all are used")
    if missing := min(asked, available) - len(shown):
        notes.append(f"{missing} of the chosen frames could not be decoded and are left out")
    if damaged := reader.count_damaged(shown, timeline):
        if 2 * damaged > len(shown):
            why = f"{damaged} of the {len(shown)} chosen frames may show damage; copy the file again, or use another"
            raise VideoError(f"{reader.file}: {why}")
        notes.append(f"{damaged} of {len(shown)} frames may show damage: the video cannot be decoded without errors")
    if reader.packets_unknown and reader.container.format.name == "mpegts":  # elsewhere streams may begin late
        notes.append(f"{reader.packets_unknown} packets of streams that the file does not announce were skipped")
    if timeline.continuous is not None and timeline.continuous.jumps:
        jumps = f"{timeline.continuous.jumps} time" + "s" * (timeline.continuous.jumps > 1)
        notes.append(f"the clock of the file restarts or jumps {jumps}: times run on, frames are in order of the file")
    if timeline.continuous is not None and timeline.continuous.damaged:
        notes.append(f"{timeline.continuous.damaged} frames of the file have damaged times and are left out")
    if upright.hdr is not None:
        notes.append(f"the video is HDR ({upright.hdr}) and is not tone-mapped: its colors differ from a player's")
    if upright.transparent or reader.stream.metadata.get("alpha_mode") == "1":
        notes.append("the video has transparent parts: alpha is ignored, the colors that they store are used")
    if upright.resized:
        notes.append("the frame size changes within the clip: later frames are scaled to that of the first")
    if timeline.counted:
        notes.append("the file has no presentation times: frames were counted from its beginning")
    return tuple(notes)


def _of(reader: Reader, clock: Clock) -> str:
    """The duration of the stream before it was cut off, if the file has it."""
    whole_s = fragments_s(reader.file)
    if whole_s is None:
        whole_s = float((reader.stream.duration or 0) * clock.tick_s)
    return f", of {whole_s:.1f} s" if whole_s > clock.duration_s + 0.05 else ""


def _announced_s(reader: Reader, clock: Clock) -> float | None:
    """The duration in the header if neither the video nor another stream has it; None otherwise.

    Of mp4 and AVI the header has the duration of every stream. Matroska and FLV announce one for the file, which a
    longer sound track may need, and which counts from 0, not from the first frame. The duration of transport and
    program streams is not announced, but measured by FFmpeg.
    """
    container, stream = reader.container, reader.stream
    if Flags.ts_discont & Flags(container.format.flags):
        return None
    whole_s = (container.duration or 0) / av.time_base
    own_s = float(stream.duration * clock.tick_s) if stream.duration else whole_s
    # FFmpeg sets the duration of a stream to that of the file where only the latter is announced.
    of_file = own_s >= whole_s - 0.1
    found_s = clock.duration_s + (max(0.0, clock.start_s) if of_file else 0.0)
    if _reaches(found_s, own_s):
        return None
    if of_file and len(container.streams) > 1 and _reaches(end_of_file_s(reader.file), own_s):
        return None
    return own_s


def _reaches(found_s: float, announced_s: float) -> bool:
    return announced_s <= 1.1 * found_s + 1
