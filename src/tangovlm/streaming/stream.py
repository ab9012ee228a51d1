"""A video without an end: frames arrive, and questions are answered from the tokens that are held of them."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from threading import RLock
from typing import Any

from torch import Tensor

from .. import registry
from ..errors import InputError
from ..inputs.prompting import EMPTY_ANSWER, check_history, check_question
from ..machine.stopwatch import Stopwatch
from ..methods.build import Method
from ..models.common.family import Family
from ..pipeline.embedded import BUILTIN_NOTE, FOLLOW_UP_NOTE, FOREIGN_NOTE, embedded_note
from ..pipeline.frame_source import Progress
from ..pipeline.generation import answer_text, check_max_new_tokens, no_progress, streamer_of
from ..pipeline.load import VideoLLM
from ..pipeline.streamer import TextSoFar
from ..session.lengths.context import context_length
from ..tower.changed import Changed
from ..video import FrameSampling
from ..video.input import VideoSource
from ..video.input.spool import reads_streams
from .answer import StreamAnswer
from .files import FrameWalk
from .follow import follow
from .holding import Holding
from .memory import Memory
from .prompt import STAGES, HeldPrompt
from .segment import Segment

MAX_TOKENS = 4096
"""Tokens that are held unless the user says otherwise, or the model has a short context."""


class Stream:
    """Holds a video of any length in a fixed number of tokens; `tangovlm.stream` makes it.

    Frames are encoded and pruned in chunks, each frame once. What the method keeps of a chunk is added to what is held,
    and where that exceeds `max_tokens`, the parts that repeat the most are reduced, see `streaming.memory`. So memory
    and time per frame do not grow with the length. A question may come at any time; frames that do not make a whole
    chunk yet count too.

    Kept tokens get position ids without gaps. Several threads may call it; their calls run one by one.

    Attributes
    ----------
    llm: the model.
    """

    def __init__(
        self,
        llm: VideoLLM,
        method: Method,
        *,
        max_tokens: int | None = None,
        half_life_s: float | None = None,
        fps: float = 1.0,
        chunk_frames: int = 32,
        encode: str | Changed = "all",
    ) -> None:
        check_family(llm.family)
        limit = context_length(llm.family)
        if max_tokens is None:
            max_tokens = MAX_TOKENS if limit is None else min(MAX_TOKENS, 3 * limit // 4)
        memory = Memory(max_tokens, half_life_s)
        if limit is not None and max_tokens >= limit:
            raise InputError(
                f"max_tokens is {max_tokens}, but the model's context has {limit} positions, which the question needs "
                "too: give less"
            )
        self.llm = llm
        self._holding = Holding(llm, method, memory, fps=fps, chunk_frames=chunk_frames, encode=encode)
        self._prompt = HeldPrompt(llm)
        self._notes: dict[str, None] = {}
        self._lock = RLock()

    @property
    def frames(self) -> int:
        """Frames that have arrived so far."""
        return self._holding.frames

    @property
    def tokens(self) -> int:
        """Tokens that are held of whole chunks."""
        return self._holding.memory.tokens

    @property
    def segments(self) -> tuple[Segment, ...]:
        """What is held of whole chunks, the oldest first."""
        return tuple(self._holding.memory.segments)

    # --- frames ---------------------------------------------------------------------------------------------------

    def add(self, frames: Tensor, time_s: float | Sequence[float] | Tensor | None = None) -> None:
        """Add frames at the end of the stream.

        Parameters
        ----------
        frames: one ``(3, H, W)`` or several ``(T, 3, H, W)``, uint8, RGB; all of a stream have one size.
        time_s: seconds of the frame or ``(T,)`` of each, later than those before; None: at the rate `fps`.

        Raises
        ------
        InputError: frames of another shape, dtype or size; times that are not finite, do not increase or are of another
            number; then none of the frames is added. Or the model was changed, NaN in its features, or a device that is
            out of memory.
        """
        if not isinstance(frames, Tensor):
            raise InputError(f"frames are {type(frames).__name__}: give a uint8 tensor (3, H, W) or (T, 3, H, W)")
        with self._lock:
            self._holding.add(frames, time_s)

    @reads_streams("path")
    def read(
        self,
        path: VideoSource,
        *,
        fps: float | None = None,
        start_s: float | None = None,
        end_s: float | None = None,
        stream: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Add the frames of a file, one after the other, so that memory does not grow with its length.

        Parameters
        ----------
        path: see `tangovlm.video.decode`.
        fps: frames per second to take; None for that of the stream.
        start_s, end_s, stream: see `FrameSampling`. Times go on from those of the frames before.
        progress: called with "decode", the number of frames so far, and their total.

        Raises
        ------
        VideoError: see `tangovlm.video.decode`. Frames before the damage are held.
        InputError: see `add`.
        """
        sampling = FrameSampling(fps=fps or self._holding.arrivals.fps, start_s=start_s, end_s=end_s, stream=stream)
        report, walk = progress or no_progress, FrameWalk(path, sampling, fit=self._fit)
        self._note_source(path)
        offset_s = self._holding.arrivals.next_s
        for done, step in enumerate(walk, start=1):
            self.add(step.picture, offset_s + step.time_s)
            report("decode", done, walk.count)
        self._notes |= dict.fromkeys(walk.notes)

    def follow(
        self,
        path: str | Path,
        *,
        stall_s: float,
        fps: float | None = None,
        stream: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Add the frames of a file that is still being written, until it has not grown for some time.

        Other threads may ask in the meantime. The file must be readable while it grows, such as MPEG-TS or Matroska.

        Parameters
        ----------
        path: a video file, which need not exist yet.
        stall_s: seconds without growth after which the file counts as complete.
        fps, stream: see `read`.
        progress: called with "decode" and the number of frames so far, twice.

        Raises
        ------
        VideoError: the file cannot be read when it is complete, or became shorter.
        InputError: `stall_s` is not above 0; see `add`.
        """
        sampling = FrameSampling(fps=fps or self._holding.arrivals.fps, stream=stream)
        report, offset_s = progress or no_progress, self._holding.arrivals.next_s
        notes: list[str] = []
        for done, step in enumerate(follow(path, sampling, self._fit, stall_s, notes), start=1):
            self.add(step.picture, offset_s + step.time_s)
            report("decode", done, done)
        self._note_source(path)
        self._notes |= dict.fromkeys(notes)

    # --- questions ------------------------------------------------------------------------------------------------

    def ask(
        self,
        question: str,
        *,
        history: Sequence[tuple[str, str]] = (),
        max_new_tokens: int = 64,
        progress: Progress | None = None,
        on_text: TextSoFar | None = None,
    ) -> StreamAnswer:
        """Answer a question about all frames so far, by greedy search.

        Parameters
        ----------
        history, max_new_tokens, on_text: see `EncodedClip.ask`.
        progress: called with the stage "generate", the number of tokens so far and their largest number.

        Raises
        ------
        InputError: no frame has arrived, an empty question, a prompt that exceeds the context of the model, a model
            that was changed since frames were encoded, or NaN in its output.
        """
        check_question(question)
        history = check_history(history)
        check_max_new_tokens(max_new_tokens)
        clock = Stopwatch(self.llm.family.device, STAGES)
        with self._lock:
            if not self.frames:
                raise InputError("the stream has no frames yet: add some before a question")
            words = self._prompt.around(question, history)
            segments, pruner = self._holding.now(clock), self._holding.pruner
            rest = pruner.rest
            assert rest is not None
            held = sum(map(len, segments))
            self._prompt.check_length(held + len(rest), *words, max_new_tokens)
            streamer = None
            if progress is not None or on_text is not None:
                streamer = streamer_of(self.llm, progress or no_progress, max_new_tokens, True, on_text)
            ids = self._prompt.generate(segments, rest, words, max_new_tokens, clock, streamer)
            answer = StreamAnswer(answer_text(self.llm, ids))
            answer.frames, answer.encoded_frames = self.frames, pruner.encoded_frames
            answer.span_s = segments[0].start_s, segments[-1].end_s
            answer.tokens_before, answer.tokens_after = sum(segment.seen for segment in segments), held
            answer.segments, answer.reused_tokens = len(segments), self._prompt.reused
            answer.method, answer.retention = pruner.plan.name, pruner.plan.retention
            answer.timings_ms = dict(clock.totals_ms)
            answer.notes = self._all_notes(bool(history), empty=not answer)
            answer.model = self.llm.name
        return answer

    # --- notes ----------------------------------------------------------------------------------------------------

    def _fit(self, height: int, width: int, frames: int) -> tuple[int, int]:
        return self.llm.family.prompt.frame_size(self.llm.config, height, width, frames)

    def _note_source(self, path: Any) -> None:
        if (note := embedded_note(self.llm, path)) is not None:
            if note == FOREIGN_NOTE:
                warnings.warn(note, UserWarning, stacklevel=4)
            self._notes[note] = None

    def _all_notes(self, has_history: bool, *, empty: bool) -> tuple[str, ...]:
        notes = self._notes | self._holding.pruner.notes | dict.fromkeys(self.llm.family.prompt.notes(self.llm.config))
        if self.llm.builtin and FOREIGN_NOTE not in notes:
            notes[BUILTIN_NOTE] = None
        if self.llm.builtin and has_history:
            notes[FOLLOW_UP_NOTE] = None
        return (*notes, *([EMPTY_ANSWER] if empty else []))


def check_family(family: Family) -> None:
    """Raise `InputError` for a family whose held tokens would need times or places of all frames in the prompt."""
    if not family.in_one_piece:
        able = sorted({cls.name for cls in registry.families().values() if cls.in_one_piece})
        raise InputError(
            "a stream needs a model whose videos are one piece of the prompt, without times or M-RoPE positions: the "
            f"family {family.name} is none, take one of {', '.join(able)}"
        )
