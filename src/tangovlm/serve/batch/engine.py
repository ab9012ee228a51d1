"""What all engines have in common: tasks in, outcomes out in the order in which they are done."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ...errors import TangoError
from .rows import Task


@dataclass(frozen=True)
class Outcome:
    """What became of a task: `fields` of its row, ``answer`` and figures, or an ``error`` in one line."""

    task: Task
    fields: Mapping[str, Any]


class Engine(Protocol):
    """Answers tasks."""

    def answer(self, tasks: Iterator[Task]) -> Iterator[Outcome]:
        """An outcome for every task, each once; tasks are drawn as there is room for them, by the caller's thread.

        Raises
        ------
        TangoError: nothing more can be answered.
        """


def failure(task: Task, error: Exception) -> Outcome:
    """A task that has no answer, for a reason of its own."""
    text = " ".join(str(error).split())
    reason = text if isinstance(error, TangoError) or not text else f"{type(error).__name__}: {text}"
    return Outcome(task, {"error": reason or type(error).__name__})
