"""Which frames to show: N moments uniformly over a clip, the frame on screen at each, the keyframe it hangs on.

All times here are integers, ticks of the stream's own time base, so that nothing is lost to rounding.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from tangovlm.errors import VideoError


@dataclass(frozen=True)
class Keyframe:
    """Where decoding can start: the packet's place in the file's order of decoding, and its times in ticks."""

    order: int
    pts: int
    dts: int | None


@dataclass(frozen=True)
class Timeline:
    """What a clip shows when, read from its packets without decoding one.

    Parameters
    ----------
    pts: presentation time of every shown frame, in ticks, strictly increasing.
    keyframes: in order of decoding.
    counted: True where the container's own presentation times cannot be trusted; the k-th decoded frame is then
        the one shown at `pts[k]`, and decoding starts at the beginning.
    """

    pts: Sequence[int]
    keyframes: Sequence[Keyframe]
    counted: bool = False

    def keyframe(self, pts: int) -> Keyframe | None:
        """The last keyframe shown no later than `pts`; None = decode from the beginning."""
        if self.counted:
            return None
        place = bisect_right(self.keyframes, pts, key=lambda keyframe: keyframe.pts)
        return self.keyframes[place - 1] if place else None


def uniform(pts: Sequence[int], frames: int) -> list[int]:
    """Places in `pts` of `frames` frames uniformly over the clip by presentation time.

    The moments are `first + (last - first) * i / (frames - 1)`, both ends included, as `numpy.linspace` over frame
    numbers does in this field, but in time: with a constant rate both choose the same frames, with a variable one
    only time is uniform. A single frame is the one in the middle. On screen at a moment is the last frame whose
    presentation time has come. Where one frame stays on screen for several moments, the later moments move to the
    nearest frames not yet taken, so that exactly `frames` distinct frames, in order of time, come back.

    Parameters
    ----------
    pts: presentation times in ticks, strictly increasing, at least one.
    frames: how many are wanted; with as many or more than there are, all are taken.

    Raises
    ------
    VideoError: `frames` is not a whole number above 0.
    """
    if isinstance(frames, bool) or not isinstance(frames, int) or frames < 1:
        raise VideoError(f"frames={frames!r}: the number of frames to take must be a whole number of at least 1")
    count = len(pts)
    if frames >= count:
        return list(range(count))
    first, span = pts[0], pts[-1] - pts[0]
    moments = [first + span * i // (frames - 1) for i in range(frames)] if frames > 1 else [first + span // 2]
    return _distinct([bisect_right(pts, moment) - 1 for moment in moments], count)


def _distinct(places: list[int], count: int) -> list[int]:
    """Make non-decreasing places strictly increasing within `range(count)`, moving each as little as need be."""
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + 1)
    for i in range(len(places)):
        places[-1 - i] = min(places[-1 - i], count - 1 - i)
    return places
