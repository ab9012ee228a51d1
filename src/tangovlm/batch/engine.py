"""What all engines have in common: tasks in, outcomes out in the order in which they are done."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import ModelError, TangoError
from .rows import Task


@dataclass(frozen=True)
class Outcome:
    """What became of a task: `fields` of its row, ``answer`` and figures, or an ``error`` in one line."""

    task: Task
    fields: Mapping[str, Any]


class EngineGoneError(ModelError):
    """The engine is gone, whatever was asked; what is written stays, and the command may be given again."""


class EngineDiedError(EngineGoneError):
    """The engine died of what was under way, as far as is known.

    Parameters
    ----------
    name: of the engine.
    rows: how many were under way.
    cause: what it says of its death, in one line.
    """

    def __init__(self, name: str, rows: int, cause: str) -> None:
        super().__init__(
            f"{name} died with {rows} rows under way ({cause}): give the command again, which goes on from here"
        )
        self.cause = cause


class Engine(Protocol):
    """Answers tasks."""

    def answer(self, tasks: Iterator[Task]) -> Iterator[Outcome]:
        """An outcome for every task, each once; tasks are drawn as there is room for them, by the caller's thread.

        Raises
        ------
        EngineGoneError: the engine died, or has been away for too long.
        TangoError: nothing more can be answered for another reason.
        """


def failure(task: Task, error: Exception) -> Outcome:
    """A task that has no answer, for a reason of its own."""
    text = " ".join(str(error).split())
    reason = text if isinstance(error, TangoError) or not text else f"{type(error).__name__}: {text}"
    return Outcome(task, {"error": reason or type(error).__name__})
