"""Choosing frames: N times uniformly over a clip, the frame on screen at each, and the keyframe that it depends on.

All times are integers, in ticks of the stream's time base, so that nothing is rounded.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Literal, Self, TypeAlias, get_args

from tangovlm.errors import VideoError

from .continuity import Continuous, Stamp
from .index import Listed

Seek: TypeAlias = Literal["exact", "keyframe", "auto"]

# "auto" takes keyframes where so many of them, at their local distance, fit between two of the wanted times.
_SEVERAL = 3


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
    continuous: if the clock of the file is not continuous, the times of all packets on one that is; `pts` and
        `keyframes` are on that clock.
    index: if the times are from the index of the file, its packets.
    """

    pts: Sequence[int]
    keyframes: Sequence[Keyframe]
    counted: bool = False
    continuous: Continuous | None = None
    index: Sequence[Listed] | None = None

    @classmethod
    def of(
        cls,
        stamps: Sequence[Stamp],
        clock: Continuous | None,
        keyframes: Sequence[int],
        hidden: set[int],
        *,
        counted: bool = False,
    ) -> Self:
        """The timeline of packets in decoding order; `keyframes` are indices into them, `hidden` those not shown."""
        pts = [stamp.pts for stamp in stamps] if clock is None else clock.pts
        times = sorted({time for order, time in enumerate(pts) if time is not None and order not in hidden})
        starts = [Keyframe(order, time, stamps[order].dts) for order in keyframes if (time := pts[order]) is not None]
        return cls(times, starts, counted=counted, continuous=clock)

    def keyframe(self, pts: int) -> Keyframe | None:
        """The last keyframe shown no later than `pts`; None means decoding from the beginning."""
        if self.counted:
            return None
        place = bisect_right(self.keyframes, pts, key=lambda keyframe: keyframe.pts)
        return self.keyframes[place - 1] if place else None

    def before(self, keyframe: Keyframe) -> Keyframe | None:
        """The keyframe before another in decoding order; None: the beginning."""
        place = self.keyframes.index(keyframe)
        return self.keyframes[place - 1] if place else None


@dataclass(frozen=True)
class Taken:
    """The frames to decode.

    Parameters
    ----------
    times: their presentation times in ticks, strictly increasing.
    replaced: how many of them are a keyframe in place of the frame that is shown at the wanted time.
    moved: the largest distance of such a keyframe from that time, in ticks.
    """

    times: Sequence[int]
    replaced: int = 0
    moved: int = 0

    def note(self, seek: Seek, tick_s: Fraction) -> str | None:
        """One line for the user about what was taken in place of the exact frames; None for "exact"."""
        if seek == "exact":
            return None
        if not self.replaced:
            return f"seek={seek}: all frames are those at their exact times"
        few = f"{self.replaced} of {len(self.times)} frames are replaced by the nearest keyframe"
        return f"seek={seek}: {few}, up to {float(self.moved * tick_s):.1f} s from their times"


def check_seek(seek: str) -> None:
    """Check the name of a way to choose frames.

    Raises
    ------
    VideoError: it is none.
    """
    if seek not in get_args(Seek):
        raise VideoError(f"seek={seek!r}: choose one of {', '.join(get_args(Seek))}")


def take_keyframes(times: Sequence[int], timeline: Timeline, seek: Seek) -> Taken:
    """Replace frames by the nearest keyframes, which are decoded without the frames between.

    "keyframe" replaces every frame; of several with the same nearest keyframe only the nearest one, and the others
    remain, so that times are distinct and in order. "auto" does the same, but only where the distance of the
    keyframes before and after a frame is at most a third of the mean distance of `times`. "exact" replaces none.

    Parameters
    ----------
    times: presentation times of frames in ticks, strictly increasing, at least one.
    """
    if seek == "exact" or timeline.counted:
        return Taken(times)
    keyframes = sorted({keyframe.pts for keyframe in timeline.keyframes}.intersection(timeline.pts))
    if not keyframes:
        return Taken(times)
    first, last = timeline.pts[0], timeline.pts[-1]
    span, parts = (times[-1] - times[0], len(times) - 1) if len(times) > 1 else (last - first, 1)
    replaced: dict[int, int] = {}
    for time in times:
        place = bisect_left(keyframes, time)
        around = keyframes[max(0, place - 1) : place + 1]
        keyframe = min(around, key=lambda pts: abs(pts - time))
        before = around[0] if place else first
        after = around[-1] if place < len(keyframes) else last
        if seek == "auto" and keyframe != time and (after - before) * _SEVERAL * parts > span:
            continue
        if keyframe not in replaced or abs(keyframe - time) < abs(keyframe - replaced[keyframe]):
            replaced[keyframe] = time
    near = {time: keyframe for keyframe, time in replaced.items() if keyframe != time}
    moved = max((abs(time - keyframe) for time, keyframe in near.items()), default=0)
    return Taken([near.get(time, time) for time in times], len(near), moved)


def uniform(pts: Sequence[int], frames: int) -> list[int]:
    """Indices into `pts` of `frames` frames, uniformly over the clip by presentation time.

    The times are `first + (last - first) * i / (frames - 1)`, both ends included. At a constant frame rate this equals
    the usual `numpy.linspace` over frame numbers; at a variable rate only these times are uniform. A single frame is
    the one in the middle. The frame on screen at a time is the last one with an earlier or equal presentation time.

    If a frame is on screen at several times, it is taken once, and the others are taken where pictures change: frames
    that are shown for longer than the distance of two times count as if they were shown so long, and the times are
    uniform on the clock that results. Exactly `frames` distinct frames are returned, in order of time.

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
    places = _on_screen(pts, frames)
    if len(set(places)) == frames:
        return places
    step, parts = _limit(pts, frames)
    clock = [0]
    for before, after in pairwise(pts):
        clock.append(clock[-1] + min((after - before) * parts, step))
    return [bisect_right(clock, step * i) - 1 for i in range(frames)]


def standing(pts: Sequence[int], frames: int) -> list[int]:
    """How long, in ticks, each frame is shown that `uniform` takes once instead of several times.

    Empty if no frame that it takes is further from its uniform time than the distance of two such times. Frames that
    are shown for less than one and a half of that distance, on the clock of `uniform`, belong to a rate that wavers.
    """
    if not 1 < frames < len(pts):
        return []
    span = pts[-1] - pts[0]
    pairs = zip(_on_screen(pts, frames), uniform(pts, frames), strict=True)
    if all(abs(pts[a] - pts[b]) * (frames - 1) <= span for a, b in pairs):
        return []
    step, parts = _limit(pts, frames)
    return [shown for a, b in pairwise(pts) if 2 * (shown := b - a) * parts > 3 * step]


def _on_screen(pts: Sequence[int], frames: int) -> list[int]:
    """The index of the frame at each of the uniform times; the same several times if it is shown for long."""
    first, span = pts[0], pts[-1] - pts[0]
    times = [first + span * i // (frames - 1) for i in range(frames)] if frames > 1 else [first + span // 2]
    return [bisect_right(pts, time) - 1 for time in times]


def _limit(pts: Sequence[int], frames: int) -> tuple[int, int]:
    """A number of ticks as a fraction, numerator first: the distance of the times if no frame counts as shown longer.

    `k` frames are longer than that; the time that the others take is divided by the `frames - 1 - k` other distances.
    """
    rest, parts = pts[-1] - pts[0], frames - 1
    for shown in sorted((b - a for a, b in pairwise(pts)), reverse=True):
        if shown * parts <= rest:
            break
        rest, parts = rest - shown, parts - 1
    return rest, parts
