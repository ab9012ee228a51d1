"""`tangovlm bench profile`: a clip of its own, files that it writes, and what is refused."""

import json
from pathlib import Path

import pytest

from tangovlm.bench import profile, tables
from tests.cli.conftest import Run

SHORT = ["--frames", 2, "--words", 2, "--repeats", 1, "--retention", 0.5]


def test_a_clip_of_its_own(tangovlm_command: Run, tmp_path: Path) -> None:
    out, csv, page = (tmp_path / name for name in ("p.jsonl", "p.csv", "p.md"))
    words = ["bench", "profile", *SHORT, "--device", "cpu", "--out", out, "--csv", csv, "--markdown", page, "--json"]
    outcome = tangovlm_command(*words)
    assert outcome.status == 0, outcome.err
    whole, pruned = outcome.json["rows"]
    assert (whole["tokens_after"], pruned["tokens_after"]) == (128, 64)
    assert outcome.json["authors"]["ttft_ms"] == 562.8
    assert "other hardware" in outcome.json["note"]
    assert tables.read(out, "profile", profile.KEYS) == [
        {"benchmark": "profile", **row} for row in outcome.json["rows"]
    ]
    assert csv.read_text().count("\n") == 4
    assert page.read_text().count("\n| ") >= 4


def test_a_clip_of_the_user_s_and_the_table(clip: Path, checkpoint: Path, tangovlm_command: Run) -> None:
    outcome = tangovlm_command("bench", "profile", clip, "--model", checkpoint, *SHORT, "--device", "cpu")
    assert outcome.status == 0, outcome.err
    assert "8 NVIDIA A800" in outcome.out
    assert "562.8" in outcome.out
    assert "all tokens" in outcome.out


def test_results_of_a_table(tangovlm_command: Run, tmp_path: Path) -> None:
    measured = {
        "tokens_before": 100, "tokens_after": 10, "gpu_runtime_s": 1.0, "peak_memory_gb": 1.0, "decode_ms": 1.0,
        "vit_ms": None, "other_ms": 2.0, "prefill_ms": 3.0, "ttft_ms": 5.0, "decode_tokens_per_s": None, "device": "x",
    }  # fmt: skip
    line = {"label": "Tango", "hyper_parameters": {"retention": 0.1, "frames": 8}, "questions": 4,
            "ours": {"average": 61.5}, "measured": measured}  # fmt: skip
    (tmp_path / "fig9.json").write_text(json.dumps({"model": "m", "lines": [line]}))
    outcome = tangovlm_command("bench", "profile", "--results", tmp_path)
    assert outcome.status == 0, outcome.err
    assert "61.5" in outcome.out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["nowhere.mp4"], "nowhere.mp4"),
        (["nowhere.mp4", "--results", "folder"], "leave one of them out"),
        (["--results", "nowhere"], "has no table"),
        (["--picture", "p.gif"], "must end in one of"),
        (["--csv", "no/such/folder/p.csv"], "--csv"),
        (["--retention", 0], "retention"),
        (["--method", "tengo"], "did you mean 'tango'"),
        (["--words", 0], "--words is 0"),
    ],
)
def test_a_mistake_is_told_in_one_line(words: list[object], complaint: str, tangovlm_command: Run) -> None:
    tangovlm_command("bench", "profile", *words, "--device", "cpu").refused(complaint)
