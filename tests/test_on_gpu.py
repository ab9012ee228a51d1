"""The script for a machine with a GPU: rehearsed, with an interpreter that lets chosen steps fail."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tangovlm.bench import prune, tables, ttft
from tangovlm.errors import InputError
from tests.test_docs import ROOT, load_tables

SCRIPT = ROOT / "scripts" / "on_gpu.sh"
pytestmark = pytest.mark.skipif(
    not (shutil.which("bash") and shutil.which("timeout")), reason="needs bash and timeout of coreutils"
)


def interpreter(folder: Path, cases: str) -> Path:
    """A `python3` of which some calls are answered by lines of a shell's ``case``, all others by the real one."""
    stub = folder / "python3"
    stub.write_text(f'#!/usr/bin/env bash\ncase "$*" in\n{cases}\n*) exec {sys.executable} "$@" ;;\nesac\n')
    stub.chmod(0o755)
    return stub


def run(python: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHON": str(python), "OMP_NUM_THREADS": "1"}
    command = ["bash", str(SCRIPT), *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)


def summary(out: Path) -> dict[str, int]:
    """Exit status of each step."""
    title, *lines = (line.split("\t") for line in (out / "summary.tsv").read_text().splitlines())
    assert title == ["step", "status", "seconds", "limit"]
    return {line[0]: int(line[1]) for line in lines}


def test_it_is_a_script() -> None:
    assert subprocess.run(["bash", "-n", SCRIPT], check=False).returncode == 0


def test_it_measures_all_shapes_and_models() -> None:
    text = SCRIPT.read_text()
    for shape in prune.SHAPES.values():
        assert f"prune --shape {','.join(map(str, shape))}" in text
    assert text.count(f"for model in {' '.join(ttft.MODELS)};") == 2


def test_a_step_that_fails_or_hangs_costs_no_other(tmp_path: Path) -> None:
    wheels, out = tmp_path / "wheels", tmp_path / "out"
    wheels.mkdir()
    for name, content in (("only_here", "value = 7"), ("pytest", "raise SystemExit('not that of the machine')")):
        with zipfile.ZipFile(wheels / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}.py", content)
    cases = f"""
*"tangovlm doctor"*) echo talk; echo '{{"fine": false}}'; exit 3 ;;
*"bench scale"*) exec sleep 60 ;;
*"-m pytest"*) exec {sys.executable} -c 'import only_here, pytest; print("found", only_here.value)' ;;
*"tangovlm bench"*) echo "$*"; exit 0 ;;
"""
    python = interpreter(tmp_path, cases)
    done = run(python, out, "--rehearse", "--wheels", wheels, "--limit", "24")
    assert done.returncode == 1, done.stderr
    found = summary(out)
    order = list(found)
    assert (order[0], order[-1], len(order)) == ("doctor", "gpu-tests", 11)
    assert {name: status for name, status in found.items() if status} == {"doctor": 3, "scale": 124}
    assert json.loads((out / "doctor.json").read_text()) == {"fine": False}
    log = (out / "steps.log").read_text()
    assert "=== scale: status 124" in log
    assert "found 7" in log
    assert log.count("--size tiny --model") >= 2
    # Few enough files to be taken home from anywhere.
    assert len(list(out.iterdir())) <= 8


def test_results_of_a_run_are_taken_in(tmp_path: Path) -> None:
    out, results = tmp_path / "out", tmp_path / "results"
    results.mkdir()
    cases = '*"tangovlm doctor"*) exit 3 ;;\n*"bench scale"*) exit 7 ;;'
    done = run(interpreter(tmp_path, cases), out, "--rehearse", "--only", "doctor,prune-32,scale", "--limit", "400")
    assert summary(out) == {"doctor": 3, "prune-32": 0, "scale": 7}, (out / "steps.log").read_text()
    assert done.returncode == 1
    rows = tables.read(out / "bench-prune.jsonl", "prune", prune.KEYS)
    assert [row["video"] for row in rows] == ["still", "busy"]

    pages = load_tables()
    with pytest.raises(InputError, match="of a rehearsal"):
        pages.take(out, results)
    (out / "rehearsal").unlink()
    on_gpu = [row | {"device": "NVIDIA H200"} for row in rows]
    tables.append(out / "bench-prune.jsonl", "prune", on_gpu)
    slower = rows[0] | {"ms": 12345.0}
    tables.append(results / "bench-prune.jsonl", "prune", [slower])
    for _ in range(2):
        assert pages.take(out, results) == ["prune"]
        taken = pages.bench_rows(results)["prune"]
        assert [(row["video"], row["device"]) for row in taken] == [
            (row["video"], row["device"]) for row in [*rows, *on_gpu]
        ]
        assert taken[0]["ms"] == rows[0]["ms"]
    assert "NVIDIA H200" in pages.bench_tables(results)["bench prune"]
    assert pages.gpu_note(taken).startswith("Rows of NVIDIA H200 were measured on that GPU")
    assert pages.gpu_note(rows) == "Nothing here was measured on a GPU yet."
    with pytest.raises(InputError, match=r"has no bench-\*\.jsonl"):
        pages.take(tmp_path, results)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "name a folder for the results"),
        (["a", "b"], "one folder for results is enough"),
        (["a", "--fast"], "there is no option --fast"),
        (["a", "--limit"], "--limit needs a value"),
        (["a", "--limit", "soon"], "give seconds"),
        (["a", "--wheels", "no/such/folder"], "which is no folder"),
        (["a", "--rehearse", "--only", "scale,tests"], "not all of these are steps"),
        (["a"], "sees no GPU here"),
    ],
)
def test_a_mistake_is_told_in_one_line(words: list[str], complaint: str, tmp_path: Path) -> None:
    given = [str(tmp_path / word) if word in ("a", "b") else word for word in words]
    done = run(interpreter(tmp_path, '"-c import sys, torch"*) exit 1 ;;'), *given)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_rehearsal_spares_figures_of_a_gpu(tmp_path: Path) -> None:
    (tmp_path / "bench-prune.jsonl").write_text("{}\n")
    done = run(interpreter(tmp_path, ""), tmp_path, "--rehearse")
    assert done.returncode == 2
    assert "choose another folder for a rehearsal" in done.stderr
