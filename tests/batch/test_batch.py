"""Rows, the file of answers, and going on after whatever has happened, with an engine that makes its answers up."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tangovlm.batch.engine import EngineDiedError, Outcome, failure
from tangovlm.batch.output import Output
from tangovlm.batch.rows import Corpus, Refused, Row, Task
from tangovlm.batch.run import Plan, plan, run
from tangovlm.errors import InputError, TangoError

SAID = {"model": "fake", "method": "tango", "settings": {"frames": 8}}


class Fake:
    """Answers each task by its id, out of order, and breaks down after so many."""

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
                yield failure(task, RuntimeError("no\nanswer"))
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
    """So many rows with ids."""
    return [{"id": f"row {number}", "video": "clip.mp4", "question": "What?"} for number in range(count)]


def corpus(path: Path, **defaults: Any) -> Corpus:
    """The rows of a file, with the defaults of a command."""
    limit = defaults.pop("limit", None)
    return Corpus(path, Task("", "", "", **({"retention": 0.1, "max_new_tokens": 64} | defaults)), limit)


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


# --- rows ---------------------------------------------------------------------------------------------------------


def test_a_row_says_what_it_wants_otherwise(tmp_path: Path) -> None:
    row = {"id": 7, "video": "a.mp4", "question": "What?", "retention": 0.5, "max_new_tokens": 3, "truth": "a cat"}
    (task,) = parsed(written(tmp_path / "in", [row]))
    assert task == Task(7, "a.mp4", "What?", 0.5, 3, own_retention=True)


def test_what_a_row_leaves_out(tmp_path: Path) -> None:
    source = written(tmp_path / "in", ["", {"video": "a.mp4", "question": "What?"}, "  "])
    assert parsed(source, root="clips") == [Task(2, "a.mp4", "What?", 0.1, 64, "clips")]


@pytest.mark.parametrize(
    ("root", "video", "path"),
    [
        ("", "a.mp4", "a.mp4"),
        ("clips", "a.mp4", "clips/a.mp4"),
        ("clips", "/a.mp4", "/a.mp4"),
        ("clips", "http://a/b.mp4", "http://a/b.mp4"),
    ],
)
def test_relative_paths(root: str, video: str, path: str) -> None:
    assert Task(1, video, "What?", 0.1, 64, root).path == path


@pytest.mark.parametrize(
    ("row", "name", "words"),
    [
        ("{", "line 1", "no JSON object"),
        ("[1]", "line 1", "no JSON object"),
        ("[" * 100_000, "line 1", "no JSON object"),
        ({"id": 1.5, "video": "a", "question": "b"}, "line 1", "id is 1.5"),
        ({"id": True, "video": "a", "question": "b"}, "line 1", "id is True"),
        ({"video": "a"}, "line 1", "no question"),
        ({"id": "x", "question": "b"}, "x", "no video"),
        ({"id": "x", "video": 3, "question": "b"}, "x", "no video"),
        ({"id": "x", "video": "a"}, "x", "no question"),
        ({"id": "x", "video": "a", "question": " "}, "x", "empty"),
        ({"id": "x", "video": "a", "question": ["b"]}, "x", "not text"),
        ({"id": "x", "video": "a", "question": "b", "retention": 0}, "x", "retention"),
        ({"id": "x", "video": "a", "question": "b", "retention": "most"}, "x", "retention"),
        ({"id": "x", "video": "a", "question": "b", "max_new_tokens": 0}, "x", "max_new_tokens"),
        ({"id": "x", "video": "a", "question": "b", "max_new_tokens": True}, "x", "max_new_tokens"),
    ],
)
def test_a_row_that_cannot_be_asked(tmp_path: Path, row: Any, name: Any, words: str) -> None:
    (refused,) = parsed(written(tmp_path / "in", [row]))
    assert isinstance(refused, Refused)
    assert refused.id == name
    assert words in refused.reason
    assert "\n" not in refused.reason


def test_rows_are_read_as_they_are_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path / "in", questions(3))
    rows = corpus(path).rows()
    next(rows)
    with path.open("a") as file:
        file.write(json.dumps({"id": "late", "video": "a", "question": "b"}) + "\n")
    assert [row.id for _, row in rows] == ["row 1", "row 2", "late"]


# --- answering ----------------------------------------------------------------------------------------------------


def test_every_row_is_written_as_it_is_answered(tmp_path: Path) -> None:
    source = written(tmp_path / "in", questions(10))
    assert asked(source, tmp_path / "out", Fake()) == Plan(10, 10)
    once_each(tmp_path / "out", [f"row {number}" for number in range(10)])
    row = next(row for row in lines(tmp_path / "out") if row["id"] == "row 3")
    assert row == {
        "id": "row 3", "video": "clip.mp4", "question": "What?", "answer": "answer to row 3", "tokens_before": 10,
        "tokens_after": 1, "model": "fake", "method": "tango", "settings": {"frames": 8}, "retention": 0.1,
        "max_new_tokens": 64,
    }  # fmt: skip
    assert next(iter(row)) == "id"


def test_failures_are_rows_too(tmp_path: Path) -> None:
    bad = {"id": "bad", "video": "clip.mp4", "question": "fail"}
    source = written(tmp_path / "in", [*questions(2), "no JSON", bad])
    asked(source, tmp_path / "out", Fake())
    once_each(tmp_path / "out", ["row 0", "row 1", "line 3", "bad"])
    errors = {row["id"]: row["error"] for row in lines(tmp_path / "out") if "error" in row}
    assert errors["bad"] == "RuntimeError: no answer"
    assert "line 3 is no JSON object" in errors["line 3"]


@pytest.mark.parametrize("broken", ["no JSON", {"video": "clip.mp4"}, {"id": 1.5}])
def test_a_broken_line_meets_no_other_row(tmp_path: Path, broken: Any) -> None:
    rows: list[Any] = [{"id": number, "video": "clip.mp4", "question": "What?"} for number in range(5)]
    source = written(tmp_path / "in", [*rows[:2], broken, *rows[2:]])
    assert asked(source, tmp_path / "out", Fake()) == Plan(6, 6)
    once_each(tmp_path / "out", ["line 3", *range(5)])


def test_rows_that_cannot_be_asked_need_no_engine(tmp_path: Path) -> None:
    rows = corpus(written(tmp_path / "in", ["no JSON", {"id": "x", "video": "a"}]))
    with Output(tmp_path / "out") as output:
        run(rows, output, lambda: pytest.fail("an engine was started for nothing"), SAID, lambda _rows, _failed: None)
    once_each(tmp_path / "out", ["line 1", "x"])


@pytest.mark.parametrize("breaks_after", [0, 1, 5, 9])
def test_an_engine_that_breaks_down(tmp_path: Path, breaks_after: int) -> None:
    source, target = written(tmp_path / "in", questions(10)), tmp_path / "out"
    with pytest.raises(InputError, match="broke down"):
        asked(source, target, Fake(breaks_after))
    assert (len(lines(target)) if breaks_after else target.exists()) == breaks_after
    again = Fake()
    assert asked(source, target, again) == Plan(10, 10 - breaks_after)
    assert len(again.asked) == 10 - breaks_after
    once_each(target, [f"row {number}" for number in range(10)])


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_line_is_cut_off_wherever_it_was_torn(tmp_path: Path, cut: int) -> None:
    source, target = written(tmp_path / "in", questions(4)), tmp_path / "out"
    asked(source, target, Fake())
    whole = target.read_bytes()
    torn = whole[: whole.rfind(b"\n", 0, -1) + 1 + cut]
    target.write_bytes(torn)
    assert asked(source, target, Fake()) == Plan(4, 1)
    once_each(target, [f"row {number}" for number in range(4)])
    assert sorted(target.read_bytes().splitlines()) == sorted(whole.splitlines())


def test_nothing_to_do_changes_nothing(tmp_path: Path) -> None:
    source, target = written(tmp_path / "in", questions(4)), tmp_path / "out"
    asked(source, target, Fake())
    before, engine = target.read_bytes(), Fake()
    assert asked(source, target, engine) == Plan(4, 0)
    assert (target.read_bytes(), engine.asked) == (before, [])


def test_a_corpus_may_grow(tmp_path: Path) -> None:
    source, target = written(tmp_path / "in", questions(4)), tmp_path / "out"
    asked(source, target, Fake())
    written(source, questions(6))
    assert asked(source, target, Fake()) == Plan(6, 2)
    once_each(target, [f"row {number}" for number in range(6)])


def test_what_an_engine_does_again_is_written_once(tmp_path: Path) -> None:
    source, target = written(tmp_path / "in", questions(5)), tmp_path / "out"
    asked(source, target, Fake(twice=True))
    once_each(target, [f"row {number}" for number in range(5)])


def test_failed_rows_are_asked_again_when_told_to(tmp_path: Path) -> None:
    rows = questions(3)
    rows[1]["question"] = "fail"
    source, target = written(tmp_path / "in", rows), tmp_path / "out"
    asked(source, target, Fake())
    assert asked(source, target, Fake()) == Plan(3, 0)
    rows[1]["question"] = "What?"
    written(source, rows)
    engine = Fake()
    assert asked(source, target, engine, forget_failed=True) == Plan(3, 1)
    assert engine.asked == ["row 1"]
    once_each(target, ["row 0", "row 1", "row 2"])
    assert not any("error" in row for row in lines(target))


def test_limit_and_more(tmp_path: Path) -> None:
    source = written(tmp_path / "in", questions(5))
    with Output(tmp_path / "out") as output:
        assert plan(corpus(source, limit=2), output, SAID) == Plan(2, 2)


def test_an_id_that_comes_twice(tmp_path: Path) -> None:
    source = written(tmp_path / "in", [*questions(3), questions(3)[1]])
    with pytest.raises(InputError, match="line 4: the id 'row 1' comes twice"):
        asked(source, tmp_path / "out", Fake())
    source = written(tmp_path / "in", [{"id": 2, "video": "a", "question": "b"}, {"video": "a", "question": "b"}])
    with pytest.raises(InputError, match="line 2: the id 2"):
        asked(source, tmp_path / "out", Fake())
    source = written(tmp_path / "in", [{"id": text, "video": "a", "question": "b"} for text in ("1", 1)])
    assert asked(source, tmp_path / "out", Fake()) == Plan(2, 2)


@pytest.mark.parametrize(
    "change", [{"question": "Why?"}, {"video": "other.mp4"}, {"retention": 0.5}, {"max_new_tokens": 5}]
)
def test_answers_to_something_else(tmp_path: Path, change: dict[str, Any]) -> None:
    source, target = written(tmp_path / "in", questions(2)), tmp_path / "out"
    asked(source, target, Fake())
    before = target.read_bytes()
    written(source, [questions(2)[0], questions(2)[1] | change])
    with pytest.raises(InputError, match="'row 1' of .* another OUTPUT"):
        asked(source, target, Fake())
    assert target.read_bytes() == before


@pytest.mark.parametrize("change", [{"model": "another"}, {"method": "uniform"}, {"settings": {"frames": 16}}])
def test_answers_of_another_command(tmp_path: Path, change: dict[str, Any]) -> None:
    source, target = written(tmp_path / "in", questions(2)), tmp_path / "out"
    asked(source, target, Fake())
    with Output(target) as output, pytest.raises(InputError, match="settings: choose another OUTPUT"):
        plan(corpus(source), output, SAID | change)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("no JSON\n", "line 1"),
        ("a text of somebody's", "line 1"),
        ('{"id": 1, "error": "x"}\n{"id": 1, "error": "x"}\n', "line 2 repeats the id 1"),
        ('{"id": 1, "error": "x"}\n\n', "line 2"),
        ('{"id": 1, "answer": "x"}\n', "line 1"),
        ("[1]\n", "line 1"),
    ],
)
def test_a_file_that_is_not_ours_is_left_alone(tmp_path: Path, content: str, words: str) -> None:
    target = tmp_path / "out"
    target.write_text(content)
    with pytest.raises(InputError, match=words):
        Output(target)
    assert target.read_text() == content


def test_places_where_nothing_can_be_written(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere" / "out"):
        with pytest.raises(TangoError, match="OUTPUT"):
            Output(place)


def test_any_text_is_written(tmp_path: Path) -> None:
    rows = [{"id": "日本", "error": "\u2028 é"}, {"id": os.fsdecode(b"\xff"), "error": "odd"}]
    with Output(tmp_path / "out") as output:
        for row in rows:
            output.add(row)
    with Output(tmp_path / "out") as output:
        assert len(output.done) == 2
    assert [json.loads(line) for line in (tmp_path / "out").read_bytes().split(b"\n")[:-1]] == rows


# --- an engine that dies ------------------------------------------------------------------------------------------


class Mortal(Fake):
    """Dies of rows whose question is "die", with whatever else is under way."""

    def answer(self, tasks: Iterator[Task]) -> Iterator[Outcome]:
        waiting: list[Task] = []
        while True:
            while len(waiting) < self.window and (task := next(tasks, None)) is not None:
                waiting.append(task)
            if any(task.question == "die" for task in waiting):
                raise EngineDiedError("fake", len(waiting), "illegal memory access")
            if not waiting:
                return
            self.asked.append(waiting[0].id)
            yield Outcome(waiting.pop(0), {"answer": "yes"})


def test_a_row_that_kills_its_engine_does_not_keep_a_corpus_from_its_end(tmp_path: Path) -> None:
    rows = questions(20)
    rows[6]["question"] = rows[7]["question"] = "die"
    source, target = written(tmp_path / "in", rows), tmp_path / "out"
    # Each of the two kills a crowd first, and then an engine that it has alone.
    for _ in range(4):
        with pytest.raises(EngineDiedError, match="fake died with . rows under way .illegal .*again"):
            asked(source, target, Mortal())
    last = Mortal()
    asked(source, target, last)
    once_each(target, [f"row {number}" for number in range(20)])
    errors = {row["id"]: row["error"] for row in lines(target) if "error" in row}
    assert errors == dict.fromkeys(
        ("row 6", "row 7"), "the engine died of this row alone (illegal memory access)"
    )  # fmt: skip
    assert last.asked == [f"row {number}" for number in range(8, 20)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


@pytest.mark.parametrize("content", ["", "{", "[null]", "7"])
def test_what_was_noted_of_a_death_may_be_torn(tmp_path: Path, content: str) -> None:
    source = written(tmp_path / "in", questions(3))
    (tmp_path / ".out.suspects").write_text(content)
    assert asked(source, tmp_path / "out", Fake()) == Plan(3, 3)
    once_each(tmp_path / "out", [f"row {number}" for number in range(3)])


# --- kill -9 ------------------------------------------------------------------------------------------------------

SCRIPT = """
import sys, time
from pathlib import Path
from tests.serve.test_batch import Fake, asked

class Stuck(Fake):
    def answer(self, tasks):
        for outcome in super().answer(tasks):
            yield outcome
            if len(self.asked) == int(sys.argv[3]):
                time.sleep(3600)

asked(Path(sys.argv[1]), Path(sys.argv[2]), Stuck())
"""


def test_kill_9_again_and_again(tmp_path: Path) -> None:
    count, each = 50, 13
    source, target = written(tmp_path / "in", questions(count)), tmp_path / "out"
    for kill in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(source), str(target), str(each)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])},
        )
        while process.poll() is None and not (target.exists() and len(lines(target)) == (kill + 1) * each):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert asked(source, target, Fake()) == Plan(count, count - 3 * each)
    once_each(target, [f"row {number}" for number in range(count)])
