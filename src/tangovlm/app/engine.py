"""The model of the page: loaded once, used by one question at a time, its encoded clips shared by methods."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING

from tangovlm.errors import TangoError

from .answering import Answering, Settings
from .background import CancelledWork, Emitter, iterate
from .limits import Limits, check_question, renamed
from .results import Choice, Run
from .sessions import Session, Sessions
from .turns import Turns

if TYPE_CHECKING:
    from tangovlm.pipeline import VideoLLM

BUG = "an error of the program, whose traceback is in the terminal"


class Engine:
    """Loads a model in a thread and answers questions with it.

    Parameters
    ----------
    load: returns the model.
    limits: of questions.
    log: called with one line if the model cannot be loaded, or a file is refused.

    Attributes
    ----------
    sessions: the open pages.
    failure: why the model could not be loaded; None until then.
    """

    def __init__(self, load: Callable[[], VideoLLM], limits: Limits, log: Callable[[str], None] | None = None) -> None:
        self.limits = limits
        self.sessions = Sessions()
        self.failure: str | None = None
        self._llm: VideoLLM | None = None
        self._imported, self._ready = Event(), Event()
        self._turns = Turns()
        self._closing = Event()
        self._load = load
        self.log = log or _no_log

    def start(self, warm_up: Callable[[], Path] | None = None) -> None:
        """Load the model in a thread.

        Parameters
        ----------
        warm_up: returns a clip to ask about once, because the first call in a process is slower than later ones.
        """
        Thread(target=self._start, args=(warm_up,), name="tangovlm-load", daemon=True).start()

    def wait_for_packages(self) -> None:
        """Wait until the thread of the model has imported what clips and answers need.

        Packages with circular imports must not be imported by two threads at once.
        """
        self._imported.wait()

    def wait(self, seconds: float | None = None) -> VideoLLM | None:
        """The model once it is loaded; None if it could not be loaded, or not within so many seconds."""
        self._ready.wait(seconds)
        return self._llm

    @property
    def is_settled(self) -> bool:
        """Whether the model is loaded or has failed to load."""
        return self._ready.is_set()

    def close(self) -> None:
        """Let running work end at its next token."""
        self._closing.set()

    def run(
        self, session: Session, part: str, question: str, choices: Sequence[Choice], settings: Settings
    ) -> Iterator[Run]:
        """Answer a question about the clip of a session with several methods, and yield what is known so far.

        It ends without a further result if the session changes its clip or starts another run in this part of the page.
        Mistakes are `Run.error`, or `Column.error` of the method that cannot run.

        Parameters
        ----------
        part: of the page.
        """
        clip = session.clip
        if clip is None:
            return
        session.number[part] += 1
        number = session.number[part]
        begun = Run.begin(clip, question, choices, settings.frames)
        for run in iterate(partial(self._answer, session, begun, settings, lambda: session.number[part] != number)):
            if session.number[part] != number:
                return
            session.runs[part] = run
            yield run

    def prepare(self, session: Session, choice: Choice) -> None:
        """Encode the clip of a session in a thread, if that is quick, so that its first answer comes sooner."""
        Thread(target=self._prepare, args=(session, choice), name="tangovlm-prepare", daemon=True).start()

    def _prepare(self, session: Session, choice: Choice) -> None:
        clip, llm = session.clip, self.wait()
        if clip is None or llm is None or not _is_quick(llm):
            return

        def check(*_: object) -> None:
            if self._closing.is_set() or session.clip is not clip:
                raise CancelledWork

        settings = Settings(min(llm.default_frames, self.limits.max_frames))
        # Mistakes, such as a damaged file, are reported when a question is asked.
        with suppress(CancelledWork, TangoError), self._turns.take(check):
            check()
            if session.encoded is None:
                Answering(llm, self.sessions, session, settings, check, lambda _: None).encoded(clip, choice, check)

    def _start(self, warm_up: Callable[[], Path] | None) -> None:
        try:
            _import_packages()
            self._imported.set()
            llm = self._load()
            if warm_up is not None and _is_quick(llm):
                llm.encode(warm_up(), record=True).ask("?", max_new_tokens=1)
            self._llm = llm
        except TangoError as error:
            self._fail(str(error))
        except BaseException:
            traceback.print_exc()
            self._fail(f"the model cannot be loaded: {BUG}")
        finally:
            self._imported.set()
            self._ready.set()

    def _fail(self, message: str) -> None:
        self.failure = message
        self.log(message)

    def _answer(
        self, session: Session, run: Run, settings: Settings, is_outdated: Callable[[], bool], emit: Emitter[Run]
    ) -> None:
        """The work of `run`, in a thread of its own."""

        def check() -> None:
            emit.check()
            if self._closing.is_set() or is_outdated():
                raise CancelledWork

        def wait(ahead: int) -> None:
            check()
            emit(replace(run, stage=f"Waiting: {ahead} before this one"))

        try:
            run = replace(run, question=check_question(run.question))
            if (llm := self.wait(0)) is None:
                emit(replace(run, error=self.failure or "the model is still being loaded: ask again in a moment"))
                return
            with self._turns.take(wait):
                Answering(llm, self.sessions, session, settings, check, emit)(run)
        except TangoError as error:
            emit(replace(run, stage="", error=str(renamed(error, run.clip.path, run.clip.name))))
        except CancelledWork:
            raise
        except Exception as error:
            emit(replace(run, stage="", error=_words(error)))


def _no_log(_line: str) -> None:
    """For callers that want none."""


def _import_packages() -> None:
    for name in ("pipeline.load", "tiny.clip", "report.html", "app.drawing"):
        import_module(f"tangovlm.{name}")


def _is_quick(llm: VideoLLM) -> bool:
    """Whether a clip may be encoded that nobody has asked about yet."""
    return llm.builtin or llm.family.device.type == "cuda"


def _words(error: Exception) -> str:
    """One line about an error that is not a mistake of the user."""
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return "the device is out of memory: take fewer frames"
    traceback.print_exc()
    return BUG
