"""Asking the missing rows, and continuing after errors, deaths of the engine and kills, with a made-up engine."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tangovlm.batch.corpus import Task
from tangovlm.batch.engine import EngineDiedError, Outcome
from tangovlm.batch.output import Output
from tangovlm.batch.run import Plan, plan, run
from tangovlm.errors import InputError, TangoError
from tests.support.batch import SAID, Fake, asked, corpus, lines, once_each, questions, written

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
    assert "no JSON object" in errors["line 3"]
    assert next(row["notes"] for row in lines(tmp_path / "out") if row["id"] == "bad") == ["odd"]


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


def test_a_row_that_takes_other_frames_says_so(tmp_path: Path) -> None:
    source, target = written(tmp_path / "in", [questions(1)[0] | {"start_s": "1:00", "fps": 2}]), tmp_path / "out"
    asked(source, target, Fake())
    (row,) = map(json.loads, target.read_text().splitlines())
    assert row["settings"] == {**SAID["settings"], "fps": 2, "start_s": 60.0}
    assert asked(source, target, Fake()).waiting == 0


@pytest.mark.parametrize(
    "change",
    [
        {"question": "Why?"},
        {"video": "other.mp4"},
        {"retention": 0.5},
        {"max_new_tokens": 5},
        {"start_s": 1},
    ],
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
    """Dies if a row with the question "die" is in progress."""

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
        with pytest.raises(EngineDiedError, match="fake died with . rows in progress .illegal .*again"):
            asked(source, target, Mortal())
    last = Mortal()
    asked(source, target, last)
    once_each(target, [f"row {number}" for number in range(20)])
    errors = {row["id"]: row["error"] for row in lines(target) if "error" in row}
    assert errors == dict.fromkeys(
        ("row 6", "row 7"), "the engine died while it answered this row alone (illegal memory access)"
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


EACH = 13


class Stuck(Fake):
    """Stops for ever after so many answers."""

    def answer(self, tasks: Iterator[Task]) -> Iterator[Outcome]:
        for outcome in super().answer(tasks):
            yield outcome
            if len(self.asked) == EACH:
                time.sleep(3600)


def test_kill_9_again_and_again(tmp_path: Path) -> None:
    """Of forks of this process, because importing takes seconds."""
    count = 50
    source, target = written(tmp_path / "in", questions(count)), tmp_path / "out"
    for kill in range(3):
        child = os.fork()
        if child == 0:
            try:
                asked(source, target, Stuck())
            finally:
                os._exit(1)
        while not (target.exists() and len(lines(target)) == (kill + 1) * EACH):
            assert os.waitpid(child, os.WNOHANG) == (0, 0)
            time.sleep(0.02)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL
    assert asked(source, target, Fake()) == Plan(count, count - 3 * EACH)
    once_each(target, [f"row {number}" for number in range(count)])
