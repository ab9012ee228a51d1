"""Asks what is missing in a file of answers, and writes every answer down as it comes."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from ..errors import InputError, ModelError
from .engine import Engine, EngineDiedError, Outcome, failure
from .output import FAILED, Output
from .rows import Corpus, Refused, Row, Task, digest
from .suspects import Suspects

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
    said: entries that all rows of the file of answers have: ``model``, ``method``, and ``settings``, which are all that
        changes answers beside these and what rows may say themselves.

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
                "question, model, method, retention, longest answer or settings: choose another OUTPUT"
            )
    return Plan(len(seen), waiting)


def run(
    corpus: Corpus, output: Output, start: Callable[[], Engine], said: Mapping[str, Any], progress: Progress
) -> None:
    """Ask every row that is missing in a file of answers; a row that fails is written down with its error.

    Rows that were under way when an engine died are asked one at a time before the others, so that the one which does
    it again is known, and written down as failed.

    Parameters
    ----------
    start: makes the engine; called where there is something to ask.
    said: see `plan`.
    progress: called after each row with how many are written, and how many of these failed.

    Raises
    ------
    TangoError: the engine can answer nothing more, or nothing can be written; what is written stays.
    """
    _Run(output, said, _Count(progress)).all(corpus, start)


@dataclass
class _Run:
    output: Output
    said: Mapping[str, Any]
    count: "_Count"

    def all(self, corpus: Corpus, start: Callable[[], Engine]) -> None:
        suspects = Suspects(self.output.path)
        missing = self._missing(corpus)
        if (first := next(missing, None)) is not None:
            engine = start()
            if before := suspects.read():
                self._alone(engine, self._missing(corpus, before))
            # What was answered alone is not missing any more.
            later = (task for task in chain([first], missing) if digest(task.id) not in self.output.done)
            self._together(engine, later, suspects)
        suspects.forget()

    def _missing(self, corpus: Corpus, only: frozenset[int] | None = None) -> Iterator[Task]:
        """Tasks that have no row; what cannot be asked is written down on the way."""
        for _, row in corpus.rows():
            key = digest(row.id)
            if key in self.output.done or (only is not None and key not in only):
                continue
            if isinstance(row, Task):
                yield row
            else:
                self.output.add({"id": row.id, **row.shown, "error": row.reason})
                self.count.one(failed=True)

    def _alone(self, engine: Engine, tasks: Iterator[Task]) -> None:
        for task in tasks:
            try:
                for outcome in engine.answer(iter([task])):
                    self._write(outcome)
            except EngineDiedError as error:
                self._write(failure(task, ModelError(f"the engine died of this row alone ({error.cause})")))
                raise

    def _together(self, engine: Engine, tasks: Iterator[Task], suspects: Suspects) -> None:
        drawn: set[int] = set()

        def noted() -> Iterator[Task]:
            for task in tasks:
                drawn.add(digest(task.id))
                yield task

        try:
            for outcome in engine.answer(noted()):
                self._write(outcome)
                drawn.discard(digest(outcome.task.id))
        except EngineDiedError:
            suspects.note(drawn)
            raise

    def _write(self, outcome: Outcome) -> None:
        # An engine that is spread over machines may do a row again.
        if digest(outcome.task.id) not in self.output.done:
            self.output.add(_written(outcome, self.said))
            self.count.one(failed="error" in outcome.fields)


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
    own = {"retention": task.retention, "max_new_tokens": task.max_new_tokens}
    return row | dict(outcome.fields) | dict(said) | own


def _asked(row: Row, said: Mapping[str, Any]) -> int:
    """See `output.ASKED`."""
    if isinstance(row, Refused):
        return FAILED
    return digest(
        [row.video, row.question, said["model"], said["method"], row.retention, row.max_new_tokens, said["settings"]]
    )
