"""`tangovlm ask` on a real clip and a random model."""

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import tangovlm
from tangovlm.budget import count
from tangovlm.pipeline.load import VideoLLM
from tests.cli.conftest import FRAMES, TOKENS_PER_FRAME, Run

STAGES = {"decode", "encode", "prune", "prefill", "decode_tokens"}
TOTAL = FRAMES * TOKENS_PER_FRAME


def test_json_is_the_last_line(tangovlm_command: Run, clip: Path, checkpoint: Path) -> None:
    outcome = tangovlm_command("ask", clip, "What moves?", "--model", checkpoint, "--json", "--max-new-tokens", 4)
    assert outcome.status == 0
    assert outcome.out.count("\n") == 1
    answer = outcome.json
    assert isinstance(answer["answer"], str)
    assert (answer["tokens_before"], answer["tokens_after"]) == (TOTAL, count(0.1, TOTAL))
    assert (answer["retention"], answer["method"]) == (0.1, "tango")
    assert sum(answer["segments"]) == FRAMES
    assert set(answer["timings_ms"]) >= STAGES
    assert all(math.isfinite(ms) and ms >= 0 for ms in answer["timings_ms"].values())
    assert "unpruned" not in answer


def test_compare_has_both(tangovlm_command: Run, clip: Path, checkpoint: Path) -> None:
    outcome = tangovlm_command(
        "ask",
        clip,
        "What moves?",
        "--model",
        checkpoint,
        "--compare",
        "--json",
        "--max-new-tokens",
        4,
        "--retention",
        0.5,
    )
    answer = outcome.json
    unpruned = answer.pop("unpruned")
    assert unpruned.keys() == answer.keys()
    assert (unpruned["tokens_after"], answer["tokens_after"]) == (TOTAL, TOTAL // 2)
    assert (unpruned["retention"], answer["retention"]) == (1.0, 0.5)


def test_table_of_a_comparison(tangovlm_command: Run, clip: Path, checkpoint: Path) -> None:
    outcome = tangovlm_command("ask", clip, "What moves?", "--model", checkpoint, "--compare", "--max-new-tokens", 4)
    assert outcome.status == 0
    for wanted in ("all tokens", "tango, 10 %", f"{TOTAL} of {TOTAL}", f"6 of {TOTAL}", "prefill (ms)", "answer"):
        assert wanted in outcome.out


def test_an_answer_that_looks_like_markup(
    tangovlm_command: Run, clip: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tangovlm.load

    def load(*arguments: Any, **options: Any) -> VideoLLM:
        llm = real(*arguments, **options)
        monkeypatch.setattr(llm.tokenizer, "decode", lambda *_, **__: "[/INST] [bold]red")
        return llm

    monkeypatch.setattr("tangovlm.pipeline.load.load", load)
    outcome = tangovlm_command("ask", clip, "What?", "--model", checkpoint, "--compare", "--max-new-tokens", 2)
    assert outcome.status == 0
    assert outcome.out.count("[/INST] [bold]red") == 2


def test_answer_alone_on_stdout(tangovlm_command: Run, clip: Path, checkpoint: Path) -> None:
    arguments = ("ask", clip, "What moves?", "--model", checkpoint, "--max-new-tokens", 4)
    outcome, as_json = tangovlm_command(*arguments), tangovlm_command(*arguments, "--json")
    assert "".join(outcome.out.split()) == "".join(str(as_json.json["answer"]).split())
    assert f"6 of {TOTAL} visual tokens" in outcome.err


def test_same_answer_at_full_retention(tangovlm_command: Run, clip: Path, checkpoint: Path) -> None:
    outcome = tangovlm_command(
        "ask",
        clip,
        "What moves?",
        "--model",
        checkpoint,
        "--compare",
        "--json",
        "--max-new-tokens",
        4,
        "--retention",
        1,
    )
    answer = outcome.json
    assert answer["answer"] == answer["unpruned"]["answer"]
    assert answer["tokens_after"] == TOTAL


def test_report_is_written(tangovlm_command: Run, clip: Path, checkpoint: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    question = "Is 1 < 2 & <script>alert(1)</script>?"
    outcome = tangovlm_command(
        "ask", clip, question, "--model", checkpoint, "--report", page, "--max-new-tokens", 4, "--json"
    )
    assert outcome.status == 0
    text = page.read_text()
    assert "Is 1 &lt; 2 &amp; &lt;script&gt;" in text
    assert "<script>alert(1)" not in text
    tokens = json.loads(text.split("id=tokens>")[1].split("</script>")[0])
    assert len(tokens["kept"]) == outcome.json["tokens_after"]
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_report_on_a_file_whose_name_is_no_text(
    tangovlm_command: Run, clip: Path, checkpoint: Path, tmp_path: Path
) -> None:
    odd, page = tmp_path / os.fsdecode(b"by\xffte.mp4"), tmp_path / "report.html"
    shutil.copy(clip, odd)
    arguments = ("--model", checkpoint, "--report", page, "--max-new-tokens", 2)
    assert tangovlm_command("ask", odd, "What?", *arguments).status == 0
    assert "by?te.mp4" in page.read_text(encoding="utf-8")


def test_report_at_full_retention(tangovlm_command: Run, clip: Path, checkpoint: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    arguments = ("--model", checkpoint, "--report", page, "--max-new-tokens", 2, "--retention", 1, "--compare")
    assert tangovlm_command("ask", clip, "What?", *arguments).status == 0
    assert "all tokens" in page.read_text()


@pytest.mark.parametrize("options", [("--saliency", "attn"), ("--dtype", "float32", "--device", "cpu")])
def test_options_reach_the_model(tangovlm_command: Run, clip: Path, checkpoint: Path, options: tuple[str, ...]) -> None:
    outcome = tangovlm_command("ask", clip, "What?", "--model", checkpoint, "--json", "--max-new-tokens", 2, *options)
    assert outcome.json["tokens_after"] == count(0.1, TOTAL)


def test_frames_are_counted(tangovlm_command: Run, clip: Path, checkpoint: Path) -> None:
    arguments = ("ask", clip, "What?", "--model", checkpoint, "--json", "--max-new-tokens", 2, "--frames")
    assert tangovlm_command(*arguments, 2).json["tokens_before"] == 2 * TOKENS_PER_FRAME
    outcome = tangovlm_command(*arguments, 99)
    assert outcome.json["tokens_before"] == 12 * TOKENS_PER_FRAME
    assert outcome.err.count("99 frames were requested") == 1


def test_pruning_inside_the_model_is_shown(tangovlm_command: Run, clip: Path, checkpoint: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    inside = ["--method", "tango+tango-fastv", "--retention", "0.5", "--report", str(page)]
    outcome = tangovlm_command("ask", str(clip), "What moves?", "--model", str(checkpoint), *inside, "--compare")
    assert outcome.status == 0
    assert "in each layer" in outcome.out
    assert "(mean" in page.read_text()
    line = tangovlm_command("ask", str(clip), "What moves?", "--model", str(checkpoint), *inside[:4])
    assert "in the layers" in line.out + line.err


def test_adaptive_counts(
    tangovlm_command: Run, clip: Path, checkpoint: Path, tmp_path: Path, large_tokens: str
) -> None:
    asked = ("ask", clip, "What moves?", "--model", checkpoint, "--max-new-tokens", 2, "--retention", 0.9)
    fixed, chosen = (
        tangovlm_command(*asked, "--method", large_tokens, "--json", *more).json for more in ((), ("--adaptive",))
    )
    cap = count(0.9, TOTAL)
    assert (fixed["tokens_after"], fixed["tokens_cap"]) == (cap, None)
    assert chosen["tokens_cap"] == cap > chosen["tokens_after"]
    page = tmp_path / "page.html"
    outcome = tangovlm_command(*asked, "--method", large_tokens, "--adaptive", "--compare", "--report", page)
    assert outcome.status == 0
    for wanted in ("all tokens", "large-tokens, at most 90 %", str(cap)):
        assert wanted in outcome.out
    assert "at most 90 %" in page.read_text()
    outcome = tangovlm_command(*asked, "--method", large_tokens, "--adaptive")
    assert f"{chosen['tokens_after']} of {TOTAL} visual tokens (at most {cap})" in outcome.err


def test_adaptive_counts_of_a_method_with_a_fixed_number(tangovlm_command: Run, clip: Path, checkpoint: Path) -> None:
    outcome = tangovlm_command("ask", clip, "What moves?", "--model", checkpoint, "--adaptive")
    outcome.refused("'tango' keeps a fixed number of tokens")


def test_positions(tangovlm_command: Run, clip: Path, checkpoint: Path) -> None:
    asked = ("ask", clip, "What moves?", "--model", checkpoint, "--max-new-tokens", 2)
    assert tangovlm_command(*asked, "--positions", "original").status == 0
    tangovlm_command(*asked, "--positions", "both").refused("'contiguous', 'original'")
