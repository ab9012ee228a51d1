"""Presentation times of recordings whose clock restarts, jumps or wraps around, made continuous.

Recordings that were joined byte by byte, parts of a DVD and interrupted broadcasts have clocks that start anew within
the file. Players show their frames in order of the file; so does this module, from the times of the packets alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from .clock_parts import ClockParts, ClockRules, Stamp

__all__ = ["ClockRules", "Continuous", "Stamp", "continuous"]


@dataclass(frozen=True)
class Continuous:
    """Times on one continuous clock.

    Parameters
    ----------
    pts: presentation time of every packet, in ticks; None where it has none or a damaged one.
    jumps: how often the clock jumped.
    damaged: how many packets have a damaged presentation time.
    """

    pts: Sequence[int | None]
    jumps: int
    damaged: int = 0


def continuous(stamps: Sequence[Stamp], rules: ClockRules, interval: int) -> Continuous | None:
    """Presentation times of all packets, in order of the file; None if the clock of the file is continuous.

    A part of the file after a jump begins one frame interval after the last frame of the part before it.

    Parameters
    ----------
    stamps: of every packet, in decoding order.
    interval: of the frames in ticks, if the file has too few of them to tell.
    """
    unwrapped = _unwrap(stamps, rules.wrap)
    clock = ClockParts(unwrapped, rules)
    pts: list[int | None] = [stamp.pts for stamp in unwrapped]
    jumps, end = 0, None
    for start, stop in zip(clock.starts, [*clock.starts[1:], len(stamps)], strict=True):
        part = range(start, stop)
        for order in clock.wrong_pts(part):
            pts[order] = None
        times = [time for time in pts[start:stop] if time is not None]
        if not times:
            continue
        offset = 0
        if end is not None:
            jumps += 1
            offset = end + interval - min(times)
        pts[start:stop] = [None if time is None else time + offset for time in pts[start:stop]]
        end = max(times) + offset
        interval = clock.interval(part, interval)
    damaged = sum(new is None and stamp.pts is not None for new, stamp in zip(pts, stamps, strict=True))
    if not jumps and not damaged and not clock.damaged and unwrapped == list(stamps):
        return None
    return Continuous(pts, jumps, damaged)


def _unwrap(stamps: Sequence[Stamp], wrap: int | None) -> list[Stamp]:
    """With the smallest change of the decoding times that is equal to the given one modulo `wrap`."""
    if wrap is None:
        return list(stamps)
    unwrapped: list[Stamp] = []
    last: int | None = None
    known = [stamp.dts for stamp in stamps if stamp.dts is not None]
    seen = 0
    for stamp in stamps:
        dts, pts = stamp.dts, stamp.pts
        if dts is not None:
            seen += 1
            dts = dts if last is None else last + _nearest(dts - last, wrap)
            following = known[seen] if seen < len(known) else dts
            # A single time that is far away says nothing about how often the clock wrapped.
            if last is None or 4 * abs(dts - last) < wrap or 4 * abs(_nearest(following - last, wrap)) >= wrap:
                last = dts
        if pts is not None and last is not None:
            pts = last + _nearest(pts - last, wrap)
        unwrapped.append(Stamp(pts, dts, stamp.keyframe, stamp.broken))
    return unwrapped


def _nearest(difference: int, wrap: int) -> int:
    return (difference + wrap // 2) % wrap - wrap // 2
