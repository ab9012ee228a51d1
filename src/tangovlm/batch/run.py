"""Answer the pending questions of a corpus, and append each answer to the output at once."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from ..errors import InputError, ModelError
from .corpus import Corpus, InvalidRow, Row, Task, digest
from .engine import Engine, EngineDiedError, Outcome, failure
from .output import FAILED, Output
from .suspects import Suspects

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Plan:
    """How much there is to do.

    Parameters
    ----------
    rows: number of rows in the corpus.
    waiting: how many of them are not in the file of answers.
    notes: about the corpus, for the user.
    """

    rows: int
    waiting: int
    notes: tuple[str, ...] = ()


def plan(corpus: Corpus, output: Output, common: Mapping[str, Any]) -> Plan:
    """Read the corpus once and compare it with the file of answers.

    Parameters
    ----------
    common: entries that are the same in all rows of the file of answers: ``model``, ``method``, and ``settings``, which
        are all other settings of the command that affect answers; each row adds which frames it takes.

    Raises
    ------
    InputError: an id that occurs twice, or answers to other questions or with other settings.
    """
    keys: set[int] = set()
    waiting = 0
    ignored: dict[str, str] = {}
    for number, row in corpus.rows(ignored):
        key = digest(row.id)
        if key in keys:
            raise InputError(f"{corpus.path} line {number}: the id {row.id!r} comes twice: give each row its own")
        keys.add(key)
        before = output.done.get(key)
        waiting += before is None
        if before not in (None, FAILED) and before != _asked(row, common):
            raise InputError(
                f"{output.path} answers the row {row.id!r} of {corpus.path} line {number} with another video, "
                "question, model, method, retention, longest answer or settings: choose another OUTPUT"
            )
    notes = (
        f"{corpus.path}: the entry {name!r} of rows is ignored: {known!r} is read"
        for name, known in sorted(ignored.items())
    )
    return Plan(len(keys), waiting, tuple(notes))


def run(
    corpus: Corpus, output: Output, start: Callable[[], Engine], common: Mapping[str, Any], progress: Progress
) -> None:
    """Ask every row that is not in a file of answers; a row that fails is written with its error.

    Rows that were in progress when an engine died are asked first, one at a time. If the engine dies again, the row
    that causes it is known, and is written as failed.

    Parameters
    ----------
    start: creates the engine; called only if there is something to ask.
    common: see `plan`.
    progress: called after each row with the numbers of rows written and failed so far.

    Raises
    ------
    TangoError: the engine cannot answer any more, or the file cannot be written; rows written so far are kept.
    """
    _Run(output, common, _Count(progress)).all(corpus, start)


@dataclass
class _Run:
    output: Output
    common: Mapping[str, Any]
    count: "_Count"

    def all(self, corpus: Corpus, start: Callable[[], Engine]) -> None:
        suspects = Suspects(self.output.path)
        missing = self._missing(corpus)
        if (first := next(missing, None)) is not None:
            engine = start()
            if before := suspects.read():
                self._ask_one_by_one(engine, self._missing(corpus, before))
            # Rows that were asked alone have been answered.
            later = (task for task in chain([first], missing) if digest(task.id) not in self.output.done)
            self._ask_all(engine, later, suspects)
        suspects.forget()

    def _missing(self, corpus: Corpus, only: frozenset[int] | None = None) -> Iterator[Task]:
        """Tasks without a row in the file of answers; invalid rows are written as failed on the way."""
        for _, row in corpus.rows():
            key = digest(row.id)
            if key in self.output.done or (only is not None and key not in only):
                continue
            if isinstance(row, Task):
                yield row
            else:
                self.output.add({"id": row.id, **row.fields, "error": row.reason})
                self.count.add(failed=True)

    def _ask_one_by_one(self, engine: Engine, tasks: Iterator[Task]) -> None:
        for task in tasks:
            try:
                for outcome in engine.answer(iter([task])):
                    self._write(outcome)
            except EngineDiedError as error:
                self._write(
                    failure(task, ModelError(f"the engine died while it answered this row alone ({error.cause})"))
                )
                raise

    def _ask_all(self, engine: Engine, tasks: Iterator[Task], suspects: Suspects) -> None:
        in_progress: set[int] = set()

        def tracked() -> Iterator[Task]:
            for task in tasks:
                in_progress.add(digest(task.id))
                yield task

        try:
            for outcome in engine.answer(tracked()):
                self._write(outcome)
                in_progress.discard(digest(outcome.task.id))
        except EngineDiedError:
            suspects.write(in_progress)
            raise

    def _write(self, outcome: Outcome) -> None:
        # An engine on several machines may answer a row twice.
        if digest(outcome.task.id) not in self.output.done:
            self.output.add(_answer_row(outcome, self.common))
            self.count.add(failed="error" in outcome.fields)


@dataclass
class _Count:
    progress: Progress
    rows: int = 0
    failed: int = 0

    def add(self, *, failed: bool) -> None:
        self.rows += 1
        self.failed += failed
        self.progress(self.rows, self.failed)


def _answer_row(outcome: Outcome, common: Mapping[str, Any]) -> dict[str, Any]:
    task = outcome.task
    row: dict[str, Any] = {"id": task.id, "video": task.video, "question": task.question}
    if "error" in outcome.fields:
        return row | dict(outcome.fields)
    own = {"retention": task.retention, "max_new_tokens": task.max_new_tokens, "settings": _settings(task, common)}
    return row | dict(outcome.fields) | dict(common) | own


def _asked(row: Row, common: Mapping[str, Any]) -> int:
    """Digest of the entries `output.ASKED` that an answer to a row will have, or `FAILED`."""
    if isinstance(row, InvalidRow):
        return FAILED
    return digest(
        [
            row.video,
            row.question,
            common["model"],
            common["method"],
            row.retention,
            row.max_new_tokens,
            _settings(row, common),
        ]
    )


def _settings(task: Task, common: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the command, and which frames a task takes."""
    return {**common["settings"], **task.sampling.as_dict()}
