"""`tangovlm reproduce` to its end in the harnesses themselves: the embedded model on miniature data."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tangovlm
from tangovlm.evaluate.reproduce.harnesses import answers

MODULES = {"lmms-eval": "lmms_eval", "vlmevalkit": "vlmeval"}
QUESTIONS = 4
"""Of each benchmark; about two clips."""


def reproduce(harness: str, out: Path) -> subprocess.CompletedProcess[str]:
    source = str(Path(tangovlm.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])}
    words = ["reproduce", "table3", "--model", "tangovlm-tiny", "--harness", harness, "--limit", str(QUESTIONS)]
    words += [
        "--benchmarks",
        "videomme,mlvu",
        "--rows",
        "10-and-st-rope-tango",
        "--output",
        str(out),
        "--yes",
        "--json",
    ]
    command = [sys.executable, "-m", "tangovlm", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.parametrize("harness", MODULES)
def test_table_3_runs_to_its_end_and_is_not_run_again(harness: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(MODULES[harness]) is None:
        pytest.skip(f"{harness} is not installed")
    done = reproduce(harness, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    table: Any = json.loads(done.stdout.splitlines()[-1])
    whole, tango = table["lines"]
    assert (whole["questions"], tango["questions"]) == (2 * QUESTIONS, 2 * QUESTIONS)
    assert (whole["measured"]["tokens_after"], tango["measured"]["tokens_after"]) == (512, 51)
    assert whole["percent_of_baseline"] == 100
    assert harness in whole["harness"]
    # The embedded model knows its world: with all tokens most of it, whichever harness asks.
    assert whole["ours"]["average"] >= 50
    assert tango["against_baseline"][0] == pytest.approx(tango["ours"]["average"] - whole["ours"]["average"])
    own = answers.load(tmp_path / "out" / "rows" / "100-all-tokens" / "results.json")
    assert {each.benchmark for each in own.answers} == {"videomme", "mlvu"}
    assert len({(each.benchmark, each.question) for each in own.answers}) == 2 * QUESTIONS
    for suffix in (".md", ".html", ".json"):
        assert (tmp_path / "out" / f"table3{suffix}").stat().st_size > 500

    log = tmp_path / "out" / "rows" / "100-all-tokens" / "log.txt"
    before = log.stat().st_size
    again = reproduce(harness, tmp_path / "out")
    assert json.loads(again.stdout.splitlines()[-1])["lines"] == table["lines"]
    assert "all rows are finished" in again.stderr
    assert log.stat().st_size == before
