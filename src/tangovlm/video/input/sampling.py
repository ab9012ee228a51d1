"""Which frames of a video to take: how many, at which rate, and from which part."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any

from tangovlm.errors import VideoError

from ..frames import Clock
from ..sample import Seek, Timeline, check_seek, standing, take_keyframes, uniform

MOST_FRAMES = 768
"""Frames that are taken at a rate unless `max_frames` says otherwise."""

# Containers, or those that a file was copied from, round times to milliseconds: such times count as equal.
_ROUNDING_S = Fraction(1, 2000)


@dataclass(frozen=True)
class FrameSampling:
    """Which frames of a video to take.

    Parameters
    ----------
    frames: their number, uniformly over the part that is taken; None together with `fps` for the default of the model.
    fps: instead of `frames`: frames per second.
    max_frames: with `fps`, the largest number of frames; if there are more, so many are taken uniformly. None for 768.
    start_s, end_s: the part of the video, in seconds since its first frame: from the frame on screen at the start to
        the last one that appears before the end. None for the beginning and the end of the video.
    stream, seek: the video stream, and whether keyframes are taken in place of frames, see `tangovlm.video.decode`.

    Raises
    ------
    VideoError: a value out of range, an unknown `seek`, `frames` and `fps` together, `max_frames` without `fps`, or an
        end that is not after the start.

    Examples
    --------
    >>> FrameSampling.of(8, start_s=60)
    FrameSampling(frames=8, fps=None, max_frames=None, start_s=60, end_s=None, stream=None, seek=None)
    >>> FrameSampling(fps=2, max_frames=64).as_dict()
    {'fps': 2, 'max_frames': 64}
    """

    frames: int | None = None
    fps: float | None = None
    max_frames: int | None = None
    start_s: float | None = None
    end_s: float | None = None
    stream: int | None = None
    seek: Seek | None = None

    def __post_init__(self) -> None:
        if self.frames is not None and not _is_count(self.frames):
            raise VideoError(f"frames={self.frames!r}: the number of frames must be an integer >= 1")
        if self.max_frames is not None and not _is_count(self.max_frames):
            raise VideoError(f"max_frames={self.max_frames!r}: the largest number of frames must be an integer >= 1")
        if self.fps is not None and not (_is_finite(self.fps) and self.fps > 0):
            raise VideoError(f"fps={self.fps!r}: frames per second must be a finite number above 0")
        if self.frames is not None and self.fps is not None:
            raise VideoError("frames and fps are both given: leave one out (with fps, max_frames limits the number)")
        if self.max_frames is not None and self.fps is None:
            raise VideoError("max_frames is given without fps: give fps too, or frames for an exact number")
        for name, value in (("start", self.start_s), ("end", self.end_s)):
            if value is not None and not (_is_finite(value) and value >= 0):
                raise VideoError(f"the {name} is {value!r}: give seconds from the beginning of the video, at least 0")
        if self.end_s is not None and self.end_s <= (self.start_s or 0):
            raise VideoError(f"the end ({self.end_s:g} s) is not after the start ({self.start_s or 0:g} s)")

        if self.seek is not None:
            check_seek(self.seek)

    @classmethod
    def of(cls, frames: "int | FrameSampling | None" = None, **others: Any) -> "FrameSampling":
        """From the arguments of a function whose `frames` may be a `FrameSampling` in place of all of them.

        Raises
        ------
        VideoError: see `FrameSampling`; or a `FrameSampling` beside another argument.
        """
        if not isinstance(frames, FrameSampling):
            return cls(frames=frames, **others)
        given = [name for name, value in others.items() if value is not None]
        if given:
            raise VideoError(f"frames is a FrameSampling, and {given[0]} is given too: set it there")
        return frames

    def or_frames(self, frames: int) -> "FrameSampling":
        """With so many frames if neither a number nor a rate is set."""
        return self if self.frames or self.fps else replace(self, frames=frames)

    def overridden(self, **own: Any) -> "FrameSampling":
        """With other values; a number of frames replaces a rate, and the other way round.

        Raises
        ------
        VideoError: see `FrameSampling`.
        """
        if own.get("frames") is not None and own.get("fps") is None:
            own = {"fps": None, "max_frames": None, **own}
        if own.get("fps") is not None and own.get("frames") is None:
            own = {"frames": None, **own}
        return replace(self, **own)

    def check_start(self, duration_s: float, name: str) -> None:
        """Raise `VideoError` if the start is not before the end of a video of this name and duration."""
        if self.start_s is not None and self.start_s >= duration_s:
            ends = f"the video ends at {duration_s:.2f} s"
            raise VideoError(f"{name}: the start is {self.start_s:g} s, but {ends}; give an earlier start")

    def differences(self, other: "FrameSampling") -> list[str]:
        """The names of the values that are set and that `other` does not have."""
        return [name for name, value in self.as_dict().items() if getattr(other, name) != value]

    def as_dict(self) -> dict[str, Any]:
        """The values that are set."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Choice:
    """The frames that a `FrameSampling` takes of a video.

    Parameters
    ----------
    part: the part of the video; its `pts` are those of the frames in it.
    times: presentation times of the chosen frames, in ticks, strictly increasing.
    asked: number of frames that were requested.
    replaced: how many frames are keyframes in place of those at their times.
    excerpt_s: start and end of the part in seconds since the first frame of the video; None for the whole video.
    notes: messages for the user.
    """

    part: Timeline
    times: Sequence[int]
    asked: int
    replaced: int
    excerpt_s: tuple[float, float] | None
    notes: tuple[str, ...]


def choose(sampling: FrameSampling, timeline: Timeline, clock: Clock, name: str) -> Choice:
    """Choose frames of a video.

    Parameters
    ----------
    name: of the video, for errors.

    Raises
    ------
    VideoError: neither a number of frames nor a rate is set, or the start is not before the end of the video.
    """
    if sampling.frames is None and sampling.fps is None:
        raise VideoError("neither frames nor fps is given: say how many frames to take")
    sampling.check_start(clock.duration_s, name)
    start, end = Fraction(str(sampling.start_s or 0)), Fraction(clock.duration_s)
    notes = []
    if sampling.end_s is not None:
        if sampling.end_s > clock.duration_s + 0.05:
            notes.append(f"the video ends at {clock.duration_s:.2f} s, before the end of {sampling.end_s:g} s")
        end = min(end, Fraction(str(sampling.end_s)))
    pts = timeline.pts
    first = max(0, bisect_right(pts, clock.start + (start + _ROUNDING_S) / clock.tick_s) - 1)
    stop = max(first + 1, bisect_left(pts, clock.start + (end - _ROUNDING_S) / clock.tick_s))
    whole = sampling.start_s is None and sampling.end_s is None
    part = timeline if whole else replace(timeline, pts=pts[first:stop])
    if start > 0:
        notes.append(f"only a part is taken: 0 s in the prompt is {float(start):g} s of the video")
    spread = sampling.frames
    if sampling.fps is not None:
        shown_s = [(time - clock.start) * clock.tick_s - _ROUNDING_S - start for time in part.pts]
        places, count = _at_rate(shown_s, end - start - _ROUNDING_S, Fraction(str(sampling.fps)))
        most = MOST_FRAMES if sampling.max_frames is None else sampling.max_frames
        if len(places) > most:
            notes.append(f"{sampling.fps:g} frames per second are {len(places)} frames: {most} are taken, uniformly")
            spread = most
        elif len(places) < count:
            notes.append(
                f"{sampling.fps:g} frames per second are {count} times, at which {len(places)} different frames are on "
                "screen: each is taken once"
            )
    if spread is not None:
        # The first picture may have been on screen long before the part.
        since = max(part.pts[0], math.floor(clock.start + start / clock.tick_s))
        appear = [since, *part.pts[1:]]
        places = uniform(appear, spread)
        if still := standing(appear, spread):
            longest_s = float(max(still) * clock.tick_s)
            pictures = f"{len(still)} pictures are" if len(still) > 1 else "a picture is"
            elsewhere = "taken once, the other frames where pictures change"
            notes.append(f"{pictures} shown for long (up to {longest_s:.1f} s): {elsewhere}")
    seek = sampling.seek or "exact"
    taken = take_keyframes([part.pts[place] for place in places], part, seek)
    if note := taken.note(seek, clock.tick_s):
        notes.append(note)
    excerpt_s = None if whole else (float(start), float(end))
    return Choice(part, taken.times, sampling.frames or len(places), taken.replaced, excerpt_s, tuple(notes))


def _at_rate(shown_s: list[Fraction], end_s: Fraction, fps: Fraction) -> tuple[list[int], int]:
    """The frames that are on screen at the times ``i / fps`` before `end_s`, and the number of these times.

    Parameters
    ----------
    shown_s: when each frame appears, increasing; the first no later than 0.
    """
    # The number of times before a frame appears; those before the first frame belong to it.
    before = [0, *(max(0, math.ceil(time * fps)) for time in shown_s[1:]), max(1, math.ceil(end_s * fps))]
    return [place for place in range(len(shown_s)) if before[place + 1] > before[place]], before[-1]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
