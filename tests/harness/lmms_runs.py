"""Runs of lmms-eval itself, as its users start them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
needs_lmms_eval = pytest.mark.skipif(
    find_spec("lmms_eval") is None, reason="lmms-eval is not installed here: make test-harness"
)


@dataclass(frozen=True)
class Result:
    """The results that lmms-eval wrote.

    Parameters
    ----------
    scores: by task.
    replies: by task, in the order of the documents.
    whole: the file of results.
    """

    scores: dict[str, float]
    replies: dict[str, list[str]]
    whole: dict[str, Any]


def environment(folder: Path) -> dict[str, str]:
    """Of a run: no network, the videos of the miniature data, this checkout, compiled modules kept."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    offline = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"), "1")
    places = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    # With --cpu, accelerate launch starts several processes through MPI only; this variable avoids that.
    offline["ACCELERATE_USE_CPU"] = "true"
    own = {"HF_HOME": str(folder / "home"), "PYTHONPATH": places, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return kept | offline | own


def command(
    folder: Path, model: str, arguments: dict[str, Any], tasks: Sequence[str], *more: str, launcher: Sequence[str] = ()
) -> list[str]:
    """The command line."""
    words = ",".join(f"{name}={value}" for name, value in arguments.items())
    return [
        sys.executable,
        "-m",
        *(launcher or ()),
        *(("-m",) if launcher else ()),
        "lmms_eval",
        *("--model", model, "--model_args", words, "--tasks", ",".join(tasks)),
        *("--include_path", str(folder / "tasks"), "--log_samples", *more),
    ]


def run(folder: Path, output: Path, *given: Any, **options: Any) -> Result:
    """Run to the end; see `command` for the arguments after `output`."""
    words = [*command(folder, *given, **options), "--output_path", str(output)]
    done = subprocess.run(words, env=environment(folder), cwd=folder, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "Error during evaluation" not in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]
    return read(output)


def read(output: Path) -> Result:
    """The results in a folder."""
    (results,) = output.rglob("*_results.json")
    whole = json.loads(results.read_text())
    scores, replies = {}, {}
    for task, values in whole["results"].items():
        (scores[task],) = [
            float(value)
            for name, value in values.items()
            if name.endswith(",none") and "stderr" not in name and isinstance(value, int | float)
        ]
        (samples,) = output.rglob(f"*_samples_{task}.jsonl")
        lines = [json.loads(line) for line in samples.read_text().splitlines()]
        # lmms-eval writes a list of one reply as the reply.
        by_doc = {line["doc_id"]: line["filtered_resps"] for line in lines}
        replies[task] = [by_doc[number] for number in sorted(by_doc)]
    return Result(scores, replies, whole)
