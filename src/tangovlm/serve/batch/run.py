"""Asks what is missing in a file of answers, and writes every answer down as it comes."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import InputError
from .engine import Engine, Outcome
from .output import FAILED, Output
from .rows import Corpus, Refused, Row, Task, digest

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Parameters
    ----------
    rows: of the corpus.
    waiting: of those, how many are not in the file of answers.
    """

    rows: int
    waiting: int


def plan(corpus: Corpus, output: Output, said: Mapping[str, Any]) -> Plan:
    """Read the corpus once and compare it with what is answered.

    Parameters
    ----------
    said: entries that all rows of the file of answers have, ``model`` and ``method``.

    Raises
    ------
    InputError: an id that comes twice, or answers to something else.
    """
    seen: set[int] = set()
    waiting = 0
    for number, row in corpus.rows():
        key = digest(row.id)
        if key in seen:
            raise InputError(f"{corpus.path} line {number}: the id {row.id!r} comes twice: give each row its own")
        seen.add(key)
        before = output.done.get(key)
        waiting += before is None
        if before not in (None, FAILED) and before != _asked(row, said):
            raise InputError(
                f"{output.path} answers the row {row.id!r} of {corpus.path} line {number} with another video, "
                "question, model, method or retention: choose another OUTPUT"
            )
    return Plan(len(seen), waiting)


def run(corpus: Corpus, output: Output, engine: Engine, said: Mapping[str, Any], progress: Progress) -> None:
    """Ask every row that is missing in a file of answers; a row that fails is written down with its error.

    Parameters
    ----------
    said: see `plan`.
    progress: called after each row with how many are written, and how many of these failed.

    Raises
    ------
    TangoError: the engine can answer nothing more, or nothing can be written; what is written stays.
    """
    count = _Count(progress)

    def tasks() -> Iterator[Task]:
        for _, row in corpus.rows():
            if digest(row.id) in output.done:
                continue
            if isinstance(row, Task):
                yield row
            else:
                output.add({"id": row.id, **row.shown, "error": row.reason})
                count.one(failed=True)

    for outcome in engine.answer(tasks()):
        # An engine that is spread over machines may do a row again.
        if digest(outcome.task.id) not in output.done:
            output.add(_written(outcome, said))
            count.one(failed="error" in outcome.fields)


@dataclass
class _Count:
    progress: Progress
    rows: int = 0
    failed: int = 0

    def one(self, *, failed: bool) -> None:
        self.rows += 1
        self.failed += failed
        self.progress(self.rows, self.failed)


def _written(outcome: Outcome, said: Mapping[str, Any]) -> dict[str, Any]:
    task = outcome.task
    row: dict[str, Any] = {"id": task.id, "video": task.video, "question": task.question}
    if "error" in outcome.fields:
        return row | {"error": outcome.fields["error"]}
    return row | dict(outcome.fields) | dict(said) | {"retention": task.retention}


def _asked(row: Row, said: Mapping[str, Any]) -> int:
    """See `output.ASKED`."""
    if isinstance(row, Refused):
        return FAILED
    return digest([row.video, row.question, said["model"], said["method"], row.retention])
