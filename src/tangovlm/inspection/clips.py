"""The clips that are measured: files, or clips of the synthetic world that are drawn here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from tangovlm.errors import InputError
from tangovlm.evaluate.tangoworld.design import VERSIONS, benchmark
from tangovlm.pipeline.frame_source import Progress
from tangovlm.pipeline.generation import decode_for, no_progress
from tangovlm.pipeline.load import VideoLLM
from tangovlm.video import Frames, FrameSampling

from .recording import RecordedClip

DRAWN_CLIPS = 24
"""Clips that are drawn if no files are given: enough for intervals, see `evaluate.statistics.MIN_CLIPS`."""
DRAWN_NOTE = "no clips are given: {} of the synthetic world, which only the embedded models were trained on"


@dataclass(frozen=True)
class ClipSource:
    """Which clips to measure.

    Parameters
    ----------
    files: local videos; if there are none, clips are drawn.
    sampling: which of their frames to take; of drawn clips only the number of frames can be chosen.
    drawn: number of clips to draw. The first of those of world 1 is the clip of `tangovlm demo`.
    chunk_frames: see `tangovlm.attach`.
    """

    files: Sequence[str] = ()
    sampling: FrameSampling = field(default_factory=FrameSampling)
    drawn: int = DRAWN_CLIPS
    chunk_frames: int | None = None

    def __post_init__(self) -> None:
        if not self.files and (given := [name for name in self.sampling.as_dict() if name != "frames"]):
            raise InputError(f"{given[0]} is given, but no clips: clips that are drawn have a number of frames only")
        if not self.files and self.drawn < 1:
            raise InputError(f"{self.drawn} clips are to be drawn: give at least 1")

    @property
    def count(self) -> int:
        """Number of clips."""
        return len(self.files) or self.drawn

    @property
    def notes(self) -> tuple[str, ...]:
        """For the user."""
        return () if self.files else (DRAWN_NOTE.format("one" if self.drawn == 1 else self.drawn),)

    def clips(self, llm: VideoLLM, progress: Progress | None = None) -> Iterator[RecordedClip]:
        """Decode or draw one clip after the other.

        Parameters
        ----------
        progress: called with a stage ("decode", "clips"), the finished part and the total.

        Raises
        ------
        VideoError: a clip that cannot be decoded.
        """
        report = progress or no_progress
        sampling = self.sampling.or_frames(llm.default_frames)
        readers: list[tuple[str, Callable[[], Frames]]]
        if self.files:
            readers = [(str(file), partial(decode_for, llm, file, sampling, report)) for file in self.files]
        else:
            readers = [
                (f"drawn clip {seed}", partial(draw_clip, llm, sampling.frames or llm.default_frames, seed))
                for seed in range(self.drawn)
            ]
        for done, (name, read) in enumerate(readers):
            report("clips", done, self.count)
            yield RecordedClip(llm, name, read(), self.chunk_frames)
        report("clips", self.count, self.count)

    def only(self, llm: VideoLLM, progress: Progress | None = None) -> RecordedClip:
        """The first clip."""
        return next(self.clips(llm, progress))


def draw_clip(llm: VideoLLM, frames: int, seed: int) -> Frames:
    """Frames of a clip of the synthetic world that a model was trained on, of world 1 for other models.

    The clip has about as many moments as frames, so that it looks like those that the model was trained on.
    """
    import numpy as np

    from tangovlm.tiny.clip import decoded_frames

    version = next((each for each in VERSIONS if benchmark(each).model == llm.name), VERSIONS[0])
    world = benchmark(version).world
    length = max((each for each in world.lengths if each <= frames), default=world.lengths[0])
    return decoded_frames(world.draw_clip(np.random.default_rng(seed), length, None), frames)[0]
