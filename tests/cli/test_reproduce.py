"""`tangovlm reproduce`: plans without weights or harness, what is refused, and a run whose harness is a stand-in."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from tangovlm.evaluate.reproduce import models
from tangovlm.evaluate.reproduce.harnesses import base, choice
from tangovlm.evaluate.reproduce.tables import names
from tests.cli.conftest import Run

DOCS = Path(__file__).resolve().parents[2] / "docs" / "reproducing.md"
FOUR = ["mvbench", "longvideobench", "mlvu", "videomme"]


def test_a_plan_as_json_lists_every_row_with_every_hyper_parameter(tangovlm_command: Run, tmp_path: Path) -> None:
    outcome = tangovlm_command("reproduce", "table1", "--dry-run", "--json", "--output", tmp_path / "out")
    assert outcome.status == 0
    plan: Any = outcome.json
    assert [each["name"] for each in plan["benchmarks"]] == FOUR
    assert [each["questions"] for each in plan["benchmarks"]] == [4000, 1337, 2174, 2700]
    assert len(plan["rows"]) == 1 + 6 + 5 + 5 + 9
    for row in plan["rows"]:
        assert row["benchmarks"] == FOUR
        assert row["predicted"]["gpu_hours"] > 0
        assert row["state"] == "to run"
        assert {"method", "retention", "frames"} <= set(row["hyper_parameters"])
        if row["hyper_parameters"]["method"].startswith("tango"):
            assert {"segment_threshold", "context_ratio", "neighbors", "expansion"} <= set(row["hyper_parameters"])
        assert row["published"]["mvbench"] is None
    assert plan["predicted"]["gpu_hours"] > 100
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("table", names())
def test_the_page_says_what_the_plan_predicts(table: str, tangovlm_command: Run) -> None:
    predicted: Any = tangovlm_command("reproduce", table, "--dry-run", "--json").json["predicted"]
    (line,) = [line for line in DOCS.read_text().splitlines() if f"| `tangovlm reproduce {table}`" in line]
    hours, busy = map(int, re.findall(r"(\d+) \((\d+)\) \|$", line)[0])
    assert (hours, busy) == (round(predicted["gpu_hours"]), round(predicted["gpu_hours_busy"]))


def test_a_plan_for_the_reader(tangovlm_command: Run) -> None:
    outcome = tangovlm_command("reproduce", "table2", "--dry-run", "--rows", "holitom", "--gpus", 8)
    assert outcome.status == 0
    (row,) = [line.split() for line in outcome.out.splitlines() if line.startswith("10-holitom ")]
    assert row[:11] == ["10-holitom", "holitom", "+", "holitom-merge", "10", "%", "12.17", "%", "0.65", "64", "1317"]
    assert "on 8 GPU(s)" in outcome.out
    outcome = tangovlm_command("reproduce", "table1", "--dry-run", "--model", models.TINY)
    assert "the smallest is 0.25" in outcome.out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["table9"], "there is no table 'table9': choose one of table1"),
        (["table1", "--harness", "lm-eval"], "choose vlmevalkit or lmms-eval"),
        (["table1", "--rows", "nothing"], "fits no row of table1"),
        (["table1", "--benchmarks", "mlvu,ego"], "--benchmarks has 'ego'"),
        (["table1", "--limit", 0], "--limit is 0"),
        (["table1", "--gpus", 0], "--gpus is 0"),
        (["table1", "--model", "someone/else"], "is not known here"),
        (["table1", "--paper", "nowhere.json"], "--paper nowhere.json cannot be read"),
    ],
)
def test_a_mistake_is_told_in_one_line(words: list[object], complaint: str, tangovlm_command: Run) -> None:
    tangovlm_command("reproduce", *words, "--dry-run").refused(complaint)


def test_a_missing_harness_and_an_untested_one(
    tangovlm_command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name == "lmms-eval":
            return "0.2.0"
        raise PackageNotFoundError(name)

    monkeypatch.setattr("tangovlm.evaluate.harness.versions.version", version)
    words = ["reproduce", "table3", "--model", models.TINY, "--output", tmp_path / "out", "--yes"]
    tangovlm_command(*words, "--harness", "vlmevalkit").refused("ms-vlmeval is not installed: pip install")
    tangovlm_command(*words, "--harness", "lmms-eval").refused("lmms-eval 0.2.0 is not tested")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A program in place of lmms-eval that writes files in its form; it fails once if a file says so."""
    program = tmp_path / "harness.py"
    program.write_text(STAND_IN)
    from tangovlm.evaluate.reproduce.harnesses import lmms_eval as with_lmms_eval

    original = with_lmms_eval.LmmsEval.command

    def command(self: Any, job: base.RowJob) -> base.Command:
        words = original(self, job).words
        return base.Command([sys.executable, str(program), *words[words.index("--model") :]])

    monkeypatch.setattr(with_lmms_eval.LmmsEval, "command", command)
    monkeypatch.setattr(with_lmms_eval.LmmsEval, "missing", lambda self, benchmarks: [])
    monkeypatch.setattr("tangovlm.evaluate.harness.versions.check", lambda distribution: None)
    for module in (base, choice, with_lmms_eval):
        monkeypatch.setattr(module, "version", lambda harness: "0.7.3")
    return program


STAND_IN = """
import json, sys
from pathlib import Path

words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
folder = Path(words["--output_path"])
(folder.parent.parent.parent / "calls").open("a").write(folder.parent.name + "\\n")
if (fail := folder.parent.parent.parent / "fail").exists():
    fail.unlink()
    print("RuntimeError: the disk is on fire")
    raise SystemExit(1)
own = folder / "a_model"
own.mkdir(parents=True, exist_ok=True)
right = "retention=1.0" in words["--model_args"]
results = {}
for task in words["--tasks"].split(","):
    assert task in ("videomme", "mlvu_dev"), task
    with (own / f"20261129_191700_samples_{task}.jsonl").open("w") as file:
        for number in range(30):
            answer = "A" if right or number % 3 else "B"
            judged = {"pred_answer": answer, "answer": "A", "task_category": "x", "task_type": "order",
                      "duration": ("short", "medium", "long")[number % 3], "videoID": f"v{number}"}
            metric = "videomme_perception_score" if task == "videomme" else "mlvu_percetion_score"
            file.write(json.dumps({"doc_id": number, metric: judged}) + "\\n")
    results[task] = {f"{metric},none": 100.0 if right else 100 * 2 / 3}
(own / "20261129_191700_results.json").write_text(json.dumps({"results": results}))
"""


def test_a_run_goes_on_and_compares(tangovlm_command: Run, tmp_path: Path, stand_in: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "fail").touch()
    words = ["reproduce", "table1", "--harness", "lmms-eval", "--benchmarks", "videomme,mlvu", "--rows", "10-tango",
             "--output", out, "--yes", "--json"]  # fmt: skip
    failed = tangovlm_command(*words)
    assert failed.status == 2
    assert (
        "row 1 of 2, 100-all-tokens: the harness ended with status 1 (RuntimeError: the disk is on fire)" in failed.err
    )

    outcome = tangovlm_command(*words)
    assert outcome.status == 0, outcome.err
    whole, tango = outcome.json["lines"]
    assert whole["ours"]["average"] == whole["percent_of_baseline"] == 100
    assert tango["percent_of_baseline"] == pytest.approx(200 / 3)
    assert tango["ours"]["videomme/short"] == 0
    assert tango["ours"]["videomme/long"] == 100
    assert tango["published"]["percent_of_baseline"] == 98.9
    value, low, high = tango["against_baseline"]
    assert low < value < high < 0
    assert value == pytest.approx(-100 / 3)
    assert "98.9 %" in (out / "table1.md").read_text()
    assert "<table" in (out / "table1.html").read_text()
    assert json.loads((out / "table1.json").read_text())["lines"] == outcome.json["lines"]

    again = tangovlm_command(*words, "--rows", "10-fastv")
    assert again.status == 0, again.err
    assert (out / "calls").read_text().split() == ["100-all-tokens", "100-all-tokens", "10-tango", "10-fastv"]
    tangovlm_command(*words, "--limit", 5).refused("holds results of other settings, limit None and not 5")
    assert tangovlm_command(*words).json["lines"] == outcome.json["lines"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_was_started_ends_with_the_command(number: int, tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        "import signal, sys, pathlib\n"
        # Jobs in the background of a shell inherit an interrupt that is ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from tangovlm.evaluate.reproduce.execute import _call\n"
        "child = 'import os, sys, time; print(os.getpid(), flush=True); time.sleep(600)'\n"
        "_call([sys.executable, '-c', child], {}, pathlib.Path(sys.argv[1]), 'row')\n"
    )
    log = tmp_path / "log.txt"
    with subprocess.Popen([sys.executable, str(script), str(log)], stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 60
            while not (log.exists() and log.read_text().strip()) and time.monotonic() < deadline:
                time.sleep(0.1)
            child = int(log.read_text())
            process.send_signal(number)
            assert process.wait(timeout=60) != 0
        finally:
            process.kill()
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_nobody_is_asked_where_nobody_is(
    tangovlm_command: Run, tmp_path: Path, stand_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    outcome = tangovlm_command("reproduce", "table3", "--harness", "lmms-eval", "--output", tmp_path / "out")
    assert outcome.status == 2
    assert "give --yes, or --dry-run" in outcome.err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_missing_data_are_named_before_anything_starts(
    tangovlm_command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tangovlm.evaluate.harness.versions.check", lambda distribution: None)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("LMUData", str(tmp_path / "lmu"))
    for harness, owner in (("lmms-eval", "lmms-eval"), ("vlmevalkit", "lmms-lab")):
        outcome = tangovlm_command("reproduce", "table3", "--harness", harness, "--output", tmp_path / "out", "--yes")
        outcome.refused(
            "data sets are missing, and nothing was started",
            str(tmp_path / "home" / "hub" / f"datasets--{owner}--Video-MME"),
            f"hf download --repo-type dataset {owner}/Video-MME",
        )
    assert not (tmp_path / "out").exists()
