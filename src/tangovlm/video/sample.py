"""Choosing frames: N times uniformly over a clip, the frame on screen at each, and the keyframe that it depends on.

All times are integers, in ticks of the stream's time base, so that nothing is rounded.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from tangovlm.errors import VideoError


@dataclass(frozen=True)
class Keyframe:
    """A packet at which decoding can start: its index in decoding order, and its times in ticks."""

    order: int
    pts: int
    dts: int | None


@dataclass(frozen=True)
class Timeline:
    """The presentation times of a clip, read from its packets without decoding.

    Parameters
    ----------
    pts: presentation time of every frame, in ticks, strictly increasing.
    keyframes: in decoding order.
    counted: whether the presentation times of the container are unreliable; the k-th decoded frame is then the one
        shown at `pts[k]`, and decoding starts at the beginning.
    """

    pts: Sequence[int]
    keyframes: Sequence[Keyframe]
    counted: bool = False

    def keyframe(self, pts: int) -> Keyframe | None:
        """The last keyframe shown no later than `pts`; None means decoding from the beginning."""
        if self.counted:
            return None
        place = bisect_right(self.keyframes, pts, key=lambda keyframe: keyframe.pts)
        return self.keyframes[place - 1] if place else None


def uniform(pts: Sequence[int], frames: int) -> list[int]:
    """Indices into `pts` of `frames` frames, uniformly over the clip by presentation time.

    The times are `first + (last - first) * i / (frames - 1)`, both ends included. At a constant frame rate this equals
    the usual `numpy.linspace` over frame numbers; at a variable rate only these times are uniform. A single frame is
    the one in the middle. The frame on screen at a time is the last one with an earlier or equal presentation time. If
    a frame is on screen at several times, the later times move to the nearest unused frames, so that exactly `frames`
    distinct frames are returned, in order of time.

    Parameters
    ----------
    pts: presentation times in ticks, strictly increasing, at least one.
    frames: number of frames; all are returned if there are not more.

    Raises
    ------
    VideoError: `frames` is not a positive integer.
    """
    if isinstance(frames, bool) or not isinstance(frames, int) or frames < 1:
        raise VideoError(f"frames={frames!r}: the number of frames must be an integer >= 1")
    count = len(pts)
    if frames >= count:
        return list(range(count))
    first, span = pts[0], pts[-1] - pts[0]
    times = [first + span * i // (frames - 1) for i in range(frames)] if frames > 1 else [first + span // 2]
    return _distinct([bisect_right(pts, time) - 1 for time in times], count)


def _distinct(places: list[int], count: int) -> list[int]:
    """Make non-decreasing indices strictly increasing within `range(count)`, changing each as little as possible."""
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + 1)
    for i in range(len(places)):
        places[-1 - i] = min(places[-1 - i], count - 1 - i)
    return places
