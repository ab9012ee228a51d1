"""The interface of all engines: tasks in, outcomes out, in the order in which they are finished."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import ModelError, TangoError
from .corpus import Task


@dataclass(frozen=True)
class Outcome:
    """The result of a task: `fields` of its row.

    They are ``answer``, ``frame_times_s`` (seconds of each frame that the model got, None if a server chose them),
    ``timings_ms``, ``notes`` and other figures; or ``error`` in one line, with what is known about the clip.
    """

    task: Task
    fields: Mapping[str, Any]


class EngineGoneError(ModelError):
    """The engine cannot answer any more tasks; answers so far are kept, and the command may be given again."""


class EngineDiedError(EngineGoneError):
    """The engine died while it worked on tasks, one of which may be the cause.

    Parameters
    ----------
    name: of the engine.
    rows: how many were in progress.
    cause: its error message, in one line.
    """

    def __init__(self, name: str, rows: int, cause: str) -> None:
        super().__init__(
            f"{name} died with {rows} rows in progress ({cause}): give the command again, which goes on from here"
        )
        self.cause = cause


class Engine(Protocol):
    """Answers tasks."""

    def answer(self, tasks: Iterator[Task]) -> Iterator[Outcome]:
        """Yield one outcome per task. Tasks are drawn in the caller's thread, as the engine has room for them.

        Raises
        ------
        EngineGoneError: the engine died, or has been unavailable for too long.
        TangoError: it cannot answer any more tasks for another reason.
        """


def failure(task: Task, error: Exception, known: Mapping[str, Any] | None = None) -> Outcome:
    """The outcome of a task that failed with an error of its own.

    Parameters
    ----------
    known: entries of the row about the clip, if it was decoded.
    """
    text = " ".join(str(error).split())
    reason = text if isinstance(error, TangoError) or not text else f"{type(error).__name__}: {text}"
    return Outcome(task, {"error": reason or type(error).__name__, **(known or {})})
