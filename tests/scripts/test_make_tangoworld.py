"""The script that writes the questions of tangoworld: it runs as a script, and writes the file in the package."""

import subprocess
import sys
from pathlib import Path

import pytest

from scripts import make_tangoworld
from tangovlm.evaluate.tangoworld import OFFICIAL, Benchmark, ClipQuestions, load_questions

SCRIPT = Path(make_tangoworld.__file__)


def test_it_runs_as_a_script() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--help"], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "FILE" in done.stdout
    assert make_tangoworld.__doc__ is not None
    assert "python scripts/make_tangoworld.py" in make_tangoworld.__doc__


def test_it_writes_the_file_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # That the cases are the same when they are drawn again is a test of `draw_questions`, and takes long.
    drawn = load_questions()

    def drawn_before(cell: int, of: Benchmark) -> list[ClipQuestions]:
        assert of == OFFICIAL
        return [case for case in drawn if case.cell == cell]

    monkeypatch.setattr(make_tangoworld, "draw_questions", drawn_before)
    assert make_tangoworld.main(["1", str(tmp_path / "questions.jsonl")]) == 0
    assert (tmp_path / "questions.jsonl").read_bytes() == OFFICIAL.file.read_bytes()
    assert f"{len(drawn)} clips" in capsys.readouterr().out
