"""An engine with made-up answers, and files of questions and answers, for the tests of `tangovlm.batch`."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tangovlm.batch.corpus import Corpus, Row, Task
from tangovlm.batch.engine import Outcome, failure
from tangovlm.batch.output import Output
from tangovlm.batch.run import Plan, plan, run
from tangovlm.errors import InputError

SAID = {"model": "fake", "method": "tango", "settings": {"frames": 8}}


class Fake:
    """Answers each task with its id, out of order, and fails after so many."""

    def __init__(self, breaks_after: int | None = None, window: int = 4, twice: bool = False) -> None:
        self.breaks_after = breaks_after
        self.window = window
        self.twice = twice
        self.asked: list[object] = []

    def answer(self, tasks: Iterator[Task]) -> Iterator[Outcome]:
        waiting: list[Task] = []
        while True:
            while len(waiting) < self.window and (task := next(tasks, None)) is not None:
                waiting.append(task)
            if not waiting:
                return
            task = waiting.pop()
            if len(self.asked) == self.breaks_after:
                raise InputError("the engine broke down")
            self.asked.append(task.id)
            if task.question == "fail":
                yield failure(task, RuntimeError("no\nanswer"), {"notes": ["odd"]})
                continue
            outcome = Outcome(task, {"answer": f"answer to {task.id}", "tokens_before": 10, "tokens_after": 1})
            yield outcome
            if self.twice:
                yield outcome


def written(path: Path, rows: list[Any]) -> Path:
    """A file of JSON lines; text stays as it is."""
    texts = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


def questions(count: int) -> list[dict[str, Any]]:
    """Rows with ids."""
    return [{"id": f"row {number}", "video": "clip.mp4", "question": "What?"} for number in range(count)]


def corpus(path: Path, **defaults: Any) -> Corpus:
    """The rows of a file, with the defaults of a command."""
    limit, form = defaults.pop("limit", None), defaults.pop("form", "jsonl")
    return Corpus(path, Task("", "", "", **({"retention": 0.1, "max_new_tokens": 64} | defaults)), limit, form)


def parsed(path: Path, **defaults: Any) -> list[Row]:
    """All rows of a file."""
    return [row for _, row in corpus(path, **defaults).rows()]


def asked(source: Path, target: Path, engine: Fake, **options: Any) -> Plan:
    """One run of the command, so to speak."""
    rows = corpus(source)
    with Output(target, **options) as output:
        todo = plan(rows, output, SAID)
        run(rows, output, lambda: engine, SAID, lambda _rows, _failed: None)
    return todo


def lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of answers."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def once_each(path: Path, ids: list[Any]) -> None:
    """Fail unless a file of answers has every id exactly once."""
    assert Counter(row["id"] for row in lines(path)) == Counter(ids)
