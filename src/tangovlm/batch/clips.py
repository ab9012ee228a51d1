"""Decoding the clip of a task, and what a row of answers says about it."""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from ..inputs.prompting import EMPTY_ANSWER
from ..video import Frames, decode
from .corpus import Task


@dataclass(frozen=True, eq=False)
class DecodedClip:
    """The frames of a clip, and the time that decoding them took; tasks may share one."""

    frames: Frames
    decode_ms: float

    @property
    def fields(self) -> dict[str, Any]:
        """Entries of a row: the number of frames, their times in seconds, the decoding time, and notes."""
        return {
            "frames": len(self.frames.pixels),
            "frame_times_s": [round(seconds, 6) for seconds in self.frames.timestamps_s.tolist()],
            "timings_ms": {"decode": round(self.decode_ms, 3)},
            "notes": list(self.frames.notes),
        }


def decode_clip(task: Task, frames: int, fit: Callable[[int, int, int], tuple[int, int]]) -> DecodedClip:
    """Decode the clip of a task; see `tangovlm.video.decode`.

    Parameters
    ----------
    frames: their number if the task sets neither a number nor a rate.
    """
    start = perf_counter()
    clip = decode(task.path, task.sampling.or_frames(frames), fit=fit)
    return DecodedClip(clip, 1000 * (perf_counter() - start))


def answer_notes(answer: str) -> list[str]:
    """Notes about an answer that an engine outside this library generated."""
    return [] if answer else [EMPTY_ANSWER]
