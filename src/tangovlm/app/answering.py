"""The work of one run: encode the clip if that is necessary, and ask with one method after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tangovlm.errors import TangoError

from .clips import Clip
from .limits import renamed
from .results import Choice, Column, Result, Run
from .sessions import Session, Sessions

if TYPE_CHECKING:
    from tangovlm.pipeline import EncodedClip, VideoLLM

STAGES = {"decode": "Decoding frames", "encode": "Encoding frames", "generate": "Answering"}


@dataclass(frozen=True)
class Settings:
    """How a clip is asked about.

    Parameters
    ----------
    frames: to take.
    positions: see `tangovlm.attach`; None for those of the method.
    max_new_tokens: the longest answer.
    """

    frames: int
    positions: str | None = None
    max_new_tokens: int = 64


@dataclass(frozen=True, eq=False)
class Answering:
    """Answers the question of a run; the caller has the model to itself.

    Parameters
    ----------
    sessions, session: of the page; the answers to a question and the encoded clip stay in the session.
    check: raises an exception if the run is not wanted any more.
    emit: called with the run whenever something is known.
    """

    llm: VideoLLM
    sessions: Sessions
    session: Session
    settings: Settings
    check: Callable[[], None]
    emit: Callable[[Run], None]

    def __call__(self, run: Run) -> None:
        """Fill the columns of a run, those with fewer tokens first."""
        asked = (run.question, self.settings)
        if self.session.question != asked:
            self.session.results.clear()
            self.session.question = asked
        order = sorted(range(len(run.columns)), key=lambda place: run.columns[place].choice.is_full)
        for place in order:
            if (found := self.session.results.get(_key(run.columns[place].choice))) is not None:
                run = run.with_column(place, result=found, text=str(found.answer))
        if run.is_done:
            self.emit(run)
        for place in [place for place in order if run.columns[place].result is None]:
            run = run.with_column(place, **self._answered(run, place))
            self.emit(replace(run, stage="" if run.is_done else "Answering"))

    def encoded(self, clip: Clip, choice: Choice, progress: Callable[[str, int, int], None]) -> EncodedClip:
        """The clip under a method; it is decoded and encoded only if it was not, or with other settings."""
        session, settings = self.session, self.settings
        wanted = (clip, settings.frames, settings.positions)
        if session.encoded is not None and session.settings == wanted:
            return session.encoded.with_method(choice.method, choice.retention)
        session.encoded = None
        encoded = self.llm.encode(
            clip.path,
            method=choice.method,
            retention=choice.retention,
            frames=settings.frames,
            positions=settings.positions,
            record=True,
            progress=progress,
        )
        session.encoded, session.settings = encoded, wanted
        self.sessions.encoded(session)
        return encoded

    def _answered(self, run: Run, place: int) -> dict[str, object]:
        """The fields of a column that change with its answer, or with why there is none."""
        column: Column = run.columns[place]
        answering = f"Answering with {column.heading}"

        def progress(stage: str, done: int, total: int) -> None:
            self.check()
            steps = f" {done} of {total}" if stage == "decode" else ""
            self.emit(replace(run, stage=f"{STAGES[stage]}{steps}"))

        def text(so_far: str) -> None:
            self.check()
            self.emit(replace(run.with_column(place, text=so_far), stage=answering))

        try:
            encoded = self.encoded(run.clip, column.choice, progress)
            self.check()
            self.emit(replace(run, stage=answering))
            answer = encoded.ask(run.question, max_new_tokens=self.settings.max_new_tokens, on_text=text)
        except TangoError as error:
            return {"error": str(renamed(error, run.clip.path, run.clip.name)), "text": ""}
        result = Result.of(answer, self.session.results.values())
        self.check()
        self.session.keep(_key(column.choice), result)
        return {"result": result, "text": str(answer)}


def _key(choice: Choice) -> Choice:
    """The choice, the same one for all methods that keep every token."""
    return Choice("", 1.0) if choice.is_full else choice
