"""`tangovlm ask --max-tokens`: questions about a video that is read frame by frame."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import tangovlm
from tangovlm.errors import InputError

from ...asking import STANDARD_INPUT, log_foreign
from ...output import log, log_notes, show, show_json, stage_bars
from ...tables import stream_line
from .exchanges import turns

if TYPE_CHECKING:
    from tangovlm.pipeline.load import VideoLLM
    from tangovlm.streaming.answer import StreamAnswer
    from tangovlm.streaming.stream import Stream
    from tangovlm.tokens import Pruner
    from tangovlm.video import FrameSampling

_FPS = 1.0


@dataclass(frozen=True)
class Streaming:
    """What the options ask for.

    Parameters
    ----------
    max_tokens, half_life_s: see `tangovlm.stream`.
    stall_s: of a file that is followed, see `Stream.follow`; None for one that is complete.
    """

    max_tokens: int | None
    half_life_s: float | None
    stall_s: float | None

    @classmethod
    def of(cls, max_tokens: int | None, half_life: float | None, follow: float | None) -> Streaming | None:
        """The options as an object; None if the video is read as a whole.

        Raises
        ------
        InputError: a half-life without the others.
        """
        if max_tokens is None and follow is None:
            if half_life is not None:
                raise InputError("--half-life is given without --max-tokens: give both, or leave it out")
            return None
        return cls(max_tokens, half_life, follow)

    def check(self, video: str, unable: Mapping[str, bool], sampling: FrameSampling) -> None:
        """Raise `InputError` for what does not go together.

        Parameters
        ----------
        unable: names of options that need the whole video, and whether they are given.
        """
        name = "--max-tokens" if self.stall_s is None else "--follow"
        for option, given in unable.items():
            if given:
                raise InputError(f"{name} and {option} do not go together: leave one of them out")
        if self.stall_s is None:
            return
        if video == STANDARD_INPUT:
            raise InputError("--follow needs a file, which standard input is not: leave it out, or name a file")
        if sampling.start_s is not None or sampling.end_s is not None:
            raise InputError("--follow takes a file from its beginning on: leave --start and --end out")


def answer_stream(
    streaming: Streaming,
    file: Any,
    llm: VideoLLM,
    pruner: Pruner,
    questions: Sequence[str],
    chat: bool,
    max_new_tokens: int,
    as_json: bool,
    *,
    sampling: FrameSampling,
    encode: str,
    chunk_frames: int | None,
) -> None:
    """Read the video, then answer and print.

    Parameters
    ----------
    chat: see `ask`.
    chunk_frames: frames that are pruned together; None for those of `tangovlm.stream`.
    """
    options: dict[str, Any] = {} if chunk_frames is None else {"chunk_frames": chunk_frames}
    stream = tangovlm.stream(
        llm,
        method=pruner,
        max_tokens=streaming.max_tokens,
        half_life_s=streaming.half_life_s,
        fps=sampling.fps or _FPS,
        encode=encode,
        **options,
    )
    printed = set() if streaming.stall_s is not None else log_foreign(llm, file)
    _fill(stream, streaming, file, sampling)
    answers: list[StreamAnswer] = []

    def ask(question: str, prefix: str, history: Sequence[tuple[str, str]]) -> StreamAnswer:
        with stage_bars(prefix) as progress:
            return stream.ask(question, history=history, max_new_tokens=max_new_tokens, progress=progress)

    asked = turns(ask, questions, llm, printed) if chat else ((each, ask(each, "", ())) for each in questions)
    try:
        for question, answer in asked:
            answers.append(answer)
            _show(question, answer, as_json, several=chat or len(questions) > 1)
    finally:
        log_notes(answers, printed)


def _fill(stream: Stream, streaming: Streaming, file: Any, sampling: FrameSampling) -> None:
    with warnings.catch_warnings(), stage_bars() as progress:
        # It is printed as a note.
        warnings.simplefilter("ignore", UserWarning)
        if streaming.stall_s is not None:
            stream.follow(file, stall_s=streaming.stall_s, stream=sampling.stream, progress=progress)
            return
        stream.read(file, start_s=sampling.start_s, end_s=sampling.end_s, stream=sampling.stream, progress=progress)


def _show(question: str, answer: StreamAnswer, as_json: bool, *, several: bool) -> None:
    if as_json:
        show_json({"question": question} | answer.as_dict())
        return
    if several:
        log(f"question: {question}")
    show(answer)
    log(stream_line(answer))
