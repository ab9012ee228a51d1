"""`tangovlm doctor`: a table or one line of JSON, and an exit status; also of an installation that is broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tangovlm.cli import only_doctor
from tangovlm.doctor import Examination
from tangovlm.doctor.rows import NotInstalledError
from tests.cli.conftest import Outcome, Run


def broken() -> str:
    raise ValueError("a bug\nof two lines")


def absent() -> str:
    raise NotInstalledError("only for plots")


def examinations(*_: Any) -> Iterator[Examination]:
    yield Examination("packages", "torch", lambda: "2.13.0")
    yield Examination("packages", "plots", absent)
    yield Examination("families", "llava-onevision", broken)


def test_one_family(tangovlm_command: Run) -> None:
    outcome = tangovlm_command("doctor", "--family", "qwen2-vl", "--json")
    assert outcome.status == 0
    assert outcome.out.count("\n") == 1
    found = outcome.json
    assert (found["ok"], found["failed"]) == (True, 0)
    assert [row["name"] for row in found["rows"] if row["part"] == "families"] == ["qwen2-vl"]
    assert {row["status"] for row in found["rows"]} <= {"OK", "not installed"}
    assert set(found["rows"][0]) == {"part", "name", "status", "detail", "seconds"}


def test_a_failure(tangovlm_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tangovlm.cli.commands.doctor.examine", examinations)
    outcome = tangovlm_command("doctor", "--json")
    assert (outcome.status, outcome.json["ok"], outcome.json["failed"]) == (1, False, 1)
    outcome = tangovlm_command("doctor")
    assert (outcome.status, outcome.err) == (1, "")
    heading, *lines, last = [line.split() for line in outcome.out.splitlines()]
    assert heading == ["part", "name", "status", "s", "detail"]
    assert lines[0] == ["packages", "torch", "OK", "0.0", "2.13.0"]
    assert lines[1] == ["packages", "plots", "not", "installed", "0.0", "only", "for", "plots"]
    assert lines[2] == ["families", "llava-onevision", "FAILED", "0.0", "ValueError:", "a", "bug", "of", "two", "lines"]
    assert last[:4] == ["1", "of", "3", "FAILED,"]


def test_what_libraries_print_is_no_result(tangovlm_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def talkative() -> str:
        print("importing")
        return "done"

    monkeypatch.setattr(
        "tangovlm.cli.commands.doctor.examine", lambda _family: [Examination("packages", "x", talkative)]
    )
    outcome = tangovlm_command("doctor", "--json")
    assert outcome.out.count("\n") == 1
    assert "importing" in outcome.err


def test_an_unknown_family(tangovlm_command: Run) -> None:
    tangovlm_command("doctor", "--family", "qwen").refused("unknown family 'qwen'", "qwen2.5-vl")


# --- half an installation -------------------------------------------------------------------------------------------


def run_without(package: str, how: str, folder: Path, *arguments: str, **variables: str) -> Outcome:
    """The command line where importing a package raises what `how` says."""
    (folder / package).mkdir(parents=True)
    (folder / package / "__init__.py").write_text(f"raise {how}\n")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])} | variables
    command = [sys.executable, "-m", "tangovlm", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return Outcome(done.returncode, done.stdout, done.stderr)


def failed(outcome: Outcome) -> dict[str, str]:
    assert outcome.status == 1
    assert "Traceback" not in outcome.err
    return {row["name"]: row["detail"] for row in outcome.json["rows"] if row["status"] == "FAILED"}


def test_without_a_decoder_and_a_home(tmp_path: Path) -> None:
    """Everything else is looked at as always."""
    home = tmp_path / "home"
    home.write_text("a file")
    variables = {"HOME": str(home), "XDG_CACHE_HOME": ""}
    error = "ImportError('libavcodec.so.61: cannot open shared object file')"
    outcome = run_without("av", error, tmp_path, "doctor", "--family", "qwen2-vl", "--json", **variables)
    assert failed(outcome) == {"av": "ImportError: libavcodec.so.61: cannot open shared object file"}
    (cache,) = [row for row in outcome.json["rows"] if row["part"] == "cache"]
    assert cache["status"] == "not installed"


def test_without_torch(tmp_path: Path) -> None:
    found = failed(run_without("torch", "OSError('libcudart.so.12: not found')", tmp_path, "doctor", "--json"))
    assert found["torch"] == "OSError: libcudart.so.12: not found"
    assert {"cpu", "all"} <= set(found)


def test_other_commands_name_the_doctor(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").touch()
    outcome = run_without("av", "ImportError('no libavcodec')", tmp_path, "ask", str(tmp_path / "clip.mp4"), "What?")
    outcome.refused("ImportError: no libavcodec", "tangovlm doctor")


def test_without_what_the_command_line_needs(tmp_path: Path) -> None:
    outcome = run_without("typer", "ImportError('no typer')", tmp_path, "doctor")
    outcome.refused("ImportError: no typer", "install tangovlm again")


def test_the_library_says_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('no libtorch')\n")
    program = """
import tangovlm
for use in ("attach", "Tango"):
    try:
        getattr(tangovlm, use)
    except ImportError as error:
        print(error)
try:
    from tangovlm import method
except ImportError as error:
    print(error)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert (
        done.stdout.splitlines() == ["tangovlm cannot be used: no libtorch; tangovlm doctor says what is missing"] * 3
    )


def test_the_doctor_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("tangovlm.cli.commands.doctor.examine", examinations)
    assert only_doctor.main(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["failed"] == 1
    assert only_doctor.main(["doctor", "--bogus"]) == 2
    assert "--bogus" in capsys.readouterr().err
    monkeypatch.setattr(only_doctor, "ERROR", OSError("two\nlines"))
    assert only_doctor.main(["demo"]) == 2
    line = "OSError: two lines: tangovlm doctor says what is missing or broken"
    assert capsys.readouterr() == ("", f"tangovlm: {line}\n")
    assert only_doctor.main(["demo", "--json"]) == 2
    captured = capsys.readouterr()
    assert (json.loads(captured.out), captured.err) == ({"error": line}, f"tangovlm: {line}\n")
