"""Files of results: what is whole is kept, what was torn is dropped, what is damaged is reported and left alone."""

import gzip
import json
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from tangovlm.errors import InputError
from tangovlm.evaluate.results import ResultsFile, ScoredAnswer, read
from tangovlm.evaluate.runs import build_run, unpruned_run

HEADER = {
    "benchmark": "b", "version": 1, "questions": "q", "model": "m", "weights": "w", "dtype": "float32",
    "device": "cpu", "machine": {"cpu": "c", "cores": 2}, "threads": 1, "versions": {"torch": "2"},
}  # fmt: skip
LOOK = [1.0, 0.5, 0.1, 0.2]
ROWS = [ScoredAnswer(0, 3, 1, 0, 12, "ring", [1.0, 0.5, 0.1, 0.2, 1.0]), ScoredAnswer(0, 5, 0, 1, 12, "", None)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "runs.jsonl"
    with ResultsFile(path, HEADER) as file:
        assert file.number(unpruned_run()) == 0
        assert file.number(build_run("tango", 0.1)) == 1
        assert file.number(unpruned_run()) == 0
        file.add(ROWS)
    return path


def test_what_is_written_is_read(path: Path) -> None:
    content = read(path, HEADER)
    assert list(content.answers.values()) == ROWS
    assert list(content.runs) == [unpruned_run().key, build_run("tango", 0.1).key]
    assert content.headers == [HEADER]
    assert content.size == path.stat().st_size
    (compressed := path.with_suffix(".jsonl.gz")).write_bytes(gzip.compress(path.read_bytes()))
    assert read(compressed).answers == content.answers


def test_nothing_is_repeated_when_it_goes_on(path: Path) -> None:
    before = path.read_bytes()
    with ResultsFile(path, HEADER) as file:
        assert file.number(build_run("tango", 0.1)) == 1
        assert path.read_bytes() == before
        file.add([ScoredAnswer(1, 3, 1, 1, 6, "ring", None)])
    assert path.read_bytes().startswith(before)
    assert len(read(path).headers) == 1


def test_another_machine_is_written_down(path: Path) -> None:
    with ResultsFile(path, HEADER | {"threads": 2}) as file:
        file.add([ScoredAnswer(1, 3, 1, 1, 6, "ring", None)])
    assert [header["threads"] for header in read(path).headers] == [1, 2]


@pytest.mark.parametrize("torn", [1, 10, 20])
def test_a_torn_last_line_is_dropped(path: Path, torn: int) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[:-torn])
    with ResultsFile(path, HEADER) as file:
        assert len(file.content.answers) == 1
        file.add(ROWS[1:])
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("line", "text", "words"),
    [
        (1, "{", "is damaged"),
        (1, "[0, 3]", "no header"),
        (1, '{"benchmark": "b"}', "is damaged"),
        (1, json.dumps(HEADER | {"versions": "2"}), "no complete header"),
        (1, json.dumps(HEADER | {"machine": {"cpu": "c"}}), "no complete header"),
        (1, json.dumps({name: value for name, value in HEADER.items() if name != "device"}), "no complete header"),
        (2, '{"run": 0, "spec": 5}', "no run"),
        (2, "[1]", "is damaged"),
        (2, json.dumps(HEADER | {"weights": "other"}), "another model"),
        (2, json.dumps(HEADER | {"questions": "other"}), "another set of questions"),
        (3, '{"run": 7, "spec": {}}', "numbers a run wrongly"),
        (4, "null", "is damaged"),
        (4, '[0, 3, 2, 0, 12, "ring", null]', "no answer"),
        (4, '[0, 3, true, 0, 12, "ring", null]', "no answer"),
        (4, '[0, 3, 1, 0, 12, "ring", ["x"]]', "no answer"),
        (4, '[0, 3, 1, 0, -1, "ring", null]', "no answer"),
        (4, json.dumps([0, 3, 1, 0, 12, "ring", LOOK]), "no answer"),
        (4, json.dumps([0, 3, 1, 0, 12, "ring", [*LOOK, float("nan")]]), "no answer"),
        (4, json.dumps([0, 3, 1, 0, 12, "ring", [*LOOK, 10**400]]), "no answer"),
        (4, '[9, 3, 1, 0, 12, "ring", null]', "unknown question"),
        (4, '[0, 99999, 1, 0, 12, "ring", null]', "unknown question"),
        (4, '[0, 5, 0, 1, 12, "", null]', "repeats"),
        (4, "\xff", "is damaged"),
        (4, "[" * 100_000, "is damaged"),
    ],
)
def test_damage_is_reported_and_left_alone(path: Path, line: int, text: str, words: str) -> None:
    lines = path.read_bytes().splitlines()
    lines[line - 1] = text.encode("latin-1")
    path.write_bytes(damaged := b"\n".join(lines) + b"\n")
    with pytest.raises(InputError, match=words) as caught:
        ResultsFile(path, HEADER)
    place = line + 1 if "repeats" in words else line
    assert f"runs.jsonl line {place} " in str(caught.value)
    assert path.read_bytes() == damaged


@pytest.mark.parametrize("text", ["notes that end without a line", "{}", '{"bench": 1}', "[1,"])
def test_a_foreign_file_of_one_open_line_is_left_alone(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(InputError, match="no header of tangovlm eval"):
        ResultsFile(path, HEADER)
    assert path.read_text() == text


@pytest.mark.parametrize("size", [0, 1, 8, 12, 40])
def test_a_torn_header_is_dropped(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])
    with ResultsFile(path, HEADER) as file:
        assert file.number(unpruned_run()) == 0
    assert read(path).headers == [HEADER]


def test_a_full_disk_is_noticed(path: Path) -> None:
    class Full:
        """Takes only a part of what is written."""

        def __init__(self, file: BinaryIO) -> None:
            self._file = file

        def write(self, data: bytes) -> int:
            return self._file.write(data[:5])

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

    whole = path.read_bytes()
    with ResultsFile(path, HEADER) as file:
        file._file._file = Full(file._file._file)  # type: ignore[assignment]
        with pytest.raises(InputError, match="make room"):
            file.add([ScoredAnswer(1, 3, 1, 1, 6, "ring", None)])
    assert path.read_bytes().startswith(whole)
    assert len(read(path).answers) == 2


def test_two_writers_are_noticed(path: Path) -> None:
    with ResultsFile(path, HEADER) as one, ResultsFile(path, HEADER) as other:
        one.add([ScoredAnswer(1, 3, 1, 1, 6, "ring", None)])
        with pytest.raises(InputError, match="another process"):
            other.add([ScoredAnswer(1, 4, 1, 1, 6, "ring", None)])
    assert len(read(path).answers) == 3


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="--output"):
        ResultsFile(tmp_path / "file" / "runs.jsonl", HEADER)


def test_a_file_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert read(tmp_path / "no.jsonl").answers == {}
    torn = gzip.compress(json.dumps(HEADER).encode())
    for damaged in (b"no gzip", torn[:-9], torn[:12] + b"\xff" * 9 + torn[21:]):
        (tmp_path / "bad.jsonl.gz").write_bytes(damaged)
        with pytest.raises(InputError, match="bad"):
            read(tmp_path / "bad.jsonl.gz")


def test_answers_of_another_file_are_taken(path: Path, tmp_path: Path) -> None:
    tango, uniform = build_run("tango", 0.1), build_run("uniform", 0.1)
    other = HEADER | {"threads": 2}
    source = tmp_path / "other.jsonl"
    with ResultsFile(source, other) as file:
        for run in (uniform, tango, build_run("uniform", 0.2)):
            number = file.number(run)
            file.add([ScoredAnswer(number, question, 1, 1, 6, run.pruner.name, None) for question in (3, 4)])
    (compressed := source.with_suffix(".jsonl.gz")).write_bytes(gzip.compress(source.read_bytes()))
    with ResultsFile(path, HEADER) as file:
        file.add([ScoredAnswer(1, 3, 0, 0, 6, "own", None)])
        file.take(compressed, [tango, uniform])
        size = path.stat().st_size
        file.take(source, [tango, uniform])
        assert path.stat().st_size == size
        assert (file.content.answers, file.content.runs) == (read(path).answers, read(path).runs)
    content = read(path)
    assert set(content.runs) == {unpruned_run().key, tango.key, uniform.key}
    answers = {
        (name, number): content.answers[content.runs[run.key], number].answer
        for name, run in (("tango", tango), ("uniform", uniform))
        for number in (3, 4)
    }
    # An answer that is there is kept.
    assert answers == {("tango", 3): "own", ("tango", 4): "tango", ("uniform", 3): "uniform", ("uniform", 4): "uniform"}
    assert [header["threads"] for header in content.headers] == [1, 2]
    with ResultsFile(path, HEADER) as file:
        file.add([ScoredAnswer(1, 6, 0, 0, 6, "own", None)])
    assert [header["threads"] for header in read(path).headers] == [1, 2, 1]


def test_a_file_of_taken_answers_names_their_machine_only(path: Path, tmp_path: Path) -> None:
    with ResultsFile(tmp_path / "new.jsonl", HEADER | {"threads": 2}) as file:
        file.take(path, [unpruned_run(), build_run("tango", 0.1)])
    content = read(tmp_path / "new.jsonl")
    assert content.headers == [HEADER]
    # Only a run with answers is taken.
    assert list(content.runs) == [unpruned_run().key]
    assert list(content.answers.values()) == ROWS


def test_answers_that_cannot_be_taken(path: Path, tmp_path: Path) -> None:
    with ResultsFile(path, HEADER) as file:
        with pytest.raises(InputError, match="none.jsonl has no results: choose another --reuse"):
            file.take(tmp_path / "none.jsonl", [unpruned_run()])
        with ResultsFile(tmp_path / "other.jsonl", HEADER | {"weights": "x"}) as other:
            other.number(unpruned_run())
        with pytest.raises(InputError, match=r"other.jsonl line 1 is of another model: .* choose another --reuse"):
            file.take(tmp_path / "other.jsonl", [unpruned_run()])
