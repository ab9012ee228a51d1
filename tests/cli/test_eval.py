"""`tangovlm eval`: figures, files, going on after a kill, and what is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tangovlm.evaluate.results import ScoredAnswer, read
from tangovlm.evaluate.tangoworld import load_questions
from tangovlm.machine.installation import install_command
from tests.cli.conftest import Run

LIMIT = 3
"""Questions about short clips only."""


@pytest.fixture
def arguments(checkpoint: Path, tmp_path: Path) -> list[object]:
    return ["eval", "--model", checkpoint, "--output", tmp_path / "out", "--limit", LIMIT]


def test_json(tangovlm_command: Run, arguments: list[object], tmp_path: Path) -> None:
    outcome = tangovlm_command(*arguments, "--method", "tango", "--method", "uniform", "--json")
    assert outcome.status == 0
    rows: Any = outcome.json["rows"]
    assert [row["label"] for row in rows] == ["all tokens", "tango", "uniform"]
    assert [row["questions"] for row in rows] == [LIMIT] * 3
    assert rows[0]["tokens"] == 8 * 16
    assert rows[1]["tokens"] == rows[2]["tokens"] == 13
    assert rows[1]["look"].keys() == {"found", "cover", "things", "decoys", "frames"}
    assert len(rows[1]["against_unpruned"]) == len(rows[2]["against_tango"]) == 3
    assert outcome.json["markdown"] == str(tmp_path / "out" / "runs.md")
    content = read(tmp_path / "out" / "runs.jsonl")
    assert len(content.answers) == 3 * LIMIT
    (header,) = content.headers
    assert {"machine", "versions", "threads", "model", "weights", "dtype", "questions"} <= set(header)


def test_table(tangovlm_command: Run, arguments: list[object], tmp_path: Path) -> None:
    outcome = tangovlm_command(
        *arguments, "--table", "methods", "--method", "topk", "--retention", 0.2, "--look", "--threads", 1
    )
    assert outcome.status == 0
    text = (tmp_path / "out" / "methods.md").read_text(encoding="utf-8")
    assert "|" not in outcome.out and "**" not in outcome.out
    assert all(len(line) <= 160 for line in outcome.out.splitlines())
    assert set(text.replace("*", " ").replace("|", " ").replace("#", " ").split()) - {"---", "---:"} <= set(
        outcome.out.split()
    )
    for words in ("topk, attn", "topk, p-attn", "**20 %**", "| color |", "kept on decoys", f"{LIMIT} questions"):
        assert words in text


def test_settings_and_kinds(tangovlm_command: Run, arguments: list[object]) -> None:
    outcome = tangovlm_command(
        *arguments, "--retention", 0.3, "--param", "neighbors=2", "--param", "placement=release",
        "--kinds", "color,count", "--json",
    )  # fmt: skip
    rows: Any = outcome.json["rows"]
    assert rows[1]["settings"]["neighbors"] == 2
    assert rows[1]["settings"]["placement"] == "release"
    assert set(rows[1]["by_kind"]) == {"color", "count"}


def test_going_on(tangovlm_command: Run, arguments: list[object], tmp_path: Path) -> None:
    path = tmp_path / "out" / "runs.jsonl"
    assert tangovlm_command(*arguments).status == 0
    before = path.read_bytes()
    again = tangovlm_command(*arguments)
    assert path.read_bytes() == before
    more = tangovlm_command(*arguments[:-1], LIMIT + 1, "--method", "uniform", "--json")
    assert path.read_bytes().startswith(before)
    rows: Any = more.json["rows"]
    assert rows[0]["questions"] == LIMIT + 1
    assert again.status == 0


def test_a_kill_loses_nothing(tangovlm_command: Run, checkpoint: Path, tmp_path: Path) -> None:
    def command(folder: str, limit: int) -> list[str]:
        return ["eval", "--model", str(checkpoint), "--output", str(tmp_path / folder), "--limit", str(limit)]

    limit, path = 18, tmp_path / "killed" / "runs.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-m", "tangovlm", *command("killed", 10_000)],
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    while process.poll() is None and not (path.exists() and len(path.read_bytes().splitlines()) > 12):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = path.read_bytes()
    assert len(read(path).answers) >= 2
    with path.open("ab") as file:
        file.write(before.splitlines()[-1][:9])
    assert tangovlm_command(*command("killed", limit)).status == 0
    assert path.read_bytes().startswith(before)
    assert tangovlm_command(*command("whole", limit)).status == 0
    killed, whole = read(path), read(tmp_path / "whole" / "runs.jsonl")
    assert len(whole.answers) == 2 * limit
    assert {place: _counted(killed.answers[place]) for place in whole.answers} == {
        place: _counted(row) for place, row in whole.answers.items()
    }


def _counted(row: ScoredAnswer) -> tuple[int, int, int]:
    return row.exact, row.chosen, row.tokens


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: text.replace('"float32"', '"float16"', 1), "line 1"),
        (lambda text: text.replace('"weights": "', '"weights": "x'), "model"),
        (lambda text: text.replace('"run": 1', '"run": 2'), "line 3"),
        (lambda text: text[:-40] + "\n" + text[-20:], "line"),
    ],
)
def test_damaged_results(
    tangovlm_command: Run, arguments: list[object], tmp_path: Path, damage: Any, words: str
) -> None:
    assert tangovlm_command(*arguments).status == 0
    path = tmp_path / "out" / "runs.jsonl"
    path.write_text(damage(path.read_text(encoding="utf-8")), encoding="utf-8")
    before = path.read_bytes()
    tangovlm_command(*arguments).refused("runs.jsonl line", words, "--output")
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "more"),
    [
        (("tengo", "tango"), ["--method", "tengo"]),
        (("neighbours", "neighbors"), ["--param", "neighbours=3"]),
        (("key=value",), ["--param", "neighbors"]),
        (("--param cannot set retention", "--retention"), ["--param", "retention=0.2"]),
        (("--param cannot set name", "--method"), ["--param", "name=uniform"]),
        (("--param cannot set label",), ["--param", "label=mine"]),
        (("--param cannot set group",), ["--param", "group=mine"]),
        (("frames", "banana"), ["--param", "frames=banana"]),
        (("frames", "True"), ["--param", "frames=true"]),
        (("saliency", "p-attn"), ["--param", "saliency=smell"]),
        (("positions", "original"), ["--param", "positions=none"]),
        (("--param", "--table"), ["--table", "bases", "--param", "neighbors=3"]),
        (("--adaptive", "--table"), ["--table", "methods", "--adaptive"]),
        (("'tango' keeps a fixed number of tokens",), ["--adaptive"]),
        (("--param cannot set adaptive", "--adaptive"), ["--param", "adaptive=true"]),
        (("--param cannot set series",), ["--param", "series=mine"]),
        (("--reuse none.jsonl", "no such file"), ["--reuse", "none.jsonl"]),
        (("--method",), ["--table", "bases", "--method", "uniform"]),
        (("--table", "nothing"), ["--table", "nothing"]),
        (("retention", "1.5"), ["--retention", "1.5"]),
        (("--limit",), ["--limit", "0"]),
        (("--threads",), ["--threads", "0"]),
        (("smell", "color"), ["--kinds", "color,smell"]),
        (("--device", "abacus"), ["--device", "abacus"]),
    ],
)
def test_mistakes_cost_one_line_and_leave_nothing(
    tangovlm_command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], more: list[str]
) -> None:
    def load(*_: object, **__: object) -> None:
        pytest.fail("a model was loaded before the mistake was found")

    monkeypatch.setattr("tangovlm.pipeline.load.load", load)
    tangovlm_command("eval", "--output", tmp_path / "out", *more).refused(*words)
    assert not (tmp_path / "out").exists()


def test_a_place_that_is_a_file(tangovlm_command: Run, arguments: list[object], tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    tangovlm_command(*arguments).refused("--output")


def test_a_table_that_cannot_be_written_is_noticed_first(
    tangovlm_command: Run, arguments: list[object], tmp_path: Path
) -> None:
    (tmp_path / "out" / "runs.md").mkdir(parents=True)
    tangovlm_command(*arguments).refused("--output", "runs.md", "folder")
    assert not (tmp_path / "out" / "runs.jsonl").exists()


def test_all_tokens_are_one_row(tangovlm_command: Run, arguments: list[object]) -> None:
    rows: Any = tangovlm_command(*arguments, "--retention", 1.0, "--json").json["rows"]
    assert [row["label"] for row in rows] == ["all tokens"]


def test_lines_are_compact(tangovlm_command: Run, arguments: list[object], tmp_path: Path) -> None:
    tangovlm_command(*arguments)
    lines = [json.loads(line) for line in (tmp_path / "out" / "runs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [type(line) for line in lines] == [dict] * 3 + [list] * (2 * LIMIT)
    asked = {asked.number for case in load_questions(LIMIT) for asked in case.questions}
    assert {line[1] for line in lines[3:]} == asked


def test_answers_of_another_file_are_taken(
    tangovlm_command: Run, arguments: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = ["--method", "tango", "--method", "uniform"]
    first = tangovlm_command(*arguments, *both, "--json")
    elsewhere = [*arguments[:4], tmp_path / "elsewhere", *arguments[5:]]
    monkeypatch.setattr("tangovlm.evaluate.runner._answer_clip", lambda *_: pytest.fail("answered again"))
    again = tangovlm_command(*elsewhere, *both, "--reuse", tmp_path / "out" / "runs.jsonl", "--json")
    assert again.json["rows"] == first.json["rows"]
    assert len(read(tmp_path / "elsewhere" / "runs.jsonl").answers) == 3 * LIMIT


def test_a_picture(tangovlm_command: Run, arguments: list[object], tmp_path: Path) -> None:
    more = ["--retention", 0.1, "--retention", 0.3, "--picture"]
    path = tmp_path / "out" / "runs.png"
    if find_spec("matplotlib") is None:
        tangovlm_command(*arguments, *more).refused(f"--picture needs matplotlib: {install_command('report')}")
        assert not path.parent.exists()
        pytest.skip("no matplotlib here")
    path.mkdir(parents=True)
    tangovlm_command(*arguments, *more).refused("--output", "runs.png", "folder")
    path.rmdir()
    outcome = tangovlm_command(*arguments, *more, "--json")
    assert outcome.json["picture"] == str(path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_no_picture_unless_asked_for(tangovlm_command: Run, arguments: list[object], tmp_path: Path) -> None:
    assert "picture" not in tangovlm_command(*arguments, "--json").json
    assert not (tmp_path / "out" / "runs.png").exists()


def test_counts_that_follow_the_content(tangovlm_command: Run, arguments: list[object]) -> None:
    more = ["--method", "milonga", "--adaptive", "--retention", 0.5, "--json"]
    rows: Any = tangovlm_command(*arguments, *more).json["rows"]
    assert [(row["label"], row["adaptive"]) for row in rows] == [("all tokens", False), ("milonga, adaptive", True)]
    assert rows[1]["settings"]["floor"] == 0.2
    assert 1 <= rows[1]["tokens"] <= 8 * 16 * 0.5
    few: Any = tangovlm_command(*arguments, *more, "--param", "floor=1000").json["rows"]
    assert few[1]["tokens"] == 1
