"""`tangovlm ask --max-tokens` and `--follow`."""

import io
import json
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import TOKENS_PER_FRAME, Run

QUESTION = "What moves?"


def test_json(tangovlm_command: Run, clip: Path, checkpoint: Path) -> None:
    asked = ("ask", clip, QUESTION, "--model", checkpoint, "--fps", 8, "--max-tokens", 10, "--max-new-tokens", 3)
    outcome = tangovlm_command(*asked, "--json", "--chunk-frames", 4)
    assert outcome.status == 0 and outcome.out.count("\n") == 1
    answer = outcome.json
    assert answer["question"] == QUESTION and isinstance(answer["answer"], str)
    assert (answer["frames"], answer["encoded_frames"], answer["span_s"]) == (12, 12, [0.0, 1.375])
    assert (answer["tokens_before"], answer["tokens_after"]) == (12 * TOKENS_PER_FRAME, 10)
    assert (answer["method"], answer["retention"], answer["reused_tokens"]) == ("tango", 0.1, 0)
    plain = tangovlm_command(*asked)
    assert plain.status == 0
    assert "tango: 10 of 192 visual tokens of 12 frames, in " in plain.err and "generate" in plain.err


def test_several_questions(tangovlm_command: Run, clip: Path, checkpoint: Path) -> None:
    outcome = tangovlm_command(
        *("ask", clip, QUESTION, "-q", "Where?", "--model", checkpoint, "--max-tokens", 50, "--max-new-tokens", 3),
        *("--method", "milonga", "--encode", "changed", "--half-life", 60, "--start", 0.5, "--end", 1, "--fps", 8),
    )
    assert outcome.status == 0
    assert [line for line in outcome.err.splitlines() if line.startswith("question: ")] == [
        f"question: {QUESTION}",
        "question: Where?",
    ]
    assert "of 4 frames" in outcome.err and "tokens read before" in outcome.err


def test_a_conversation(tangovlm_command: Run, clip: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{QUESTION}\nWhere?\n"))
    outcome = tangovlm_command(
        "ask", clip, "--chat", "--model", checkpoint, "--max-tokens", 50, "--max-new-tokens", 3, "--json"
    )
    assert outcome.status == 0
    assert [json.loads(line)["question"] for line in outcome.out.splitlines()] == [QUESTION, "Where?"]


def test_a_file_that_is_followed(tangovlm_command: Run, clip: Path, checkpoint: Path) -> None:
    asked = ("ask", clip, QUESTION, "--model", checkpoint, "--fps", 4, "--max-new-tokens", 3, "--json")
    followed = tangovlm_command(*asked, "--follow", 0.1)
    read = tangovlm_command(*asked, "--max-tokens", 500)
    assert followed.status == read.status == 0
    assert followed.json["answer"] == read.json["answer"] and followed.json["frames"] == 6


def test_a_foreign_file_is_noted_once(tangovlm_command: Run, clip: Path) -> None:
    outcome = tangovlm_command("ask", clip, QUESTION, "--max-tokens", 50, "--max-new-tokens", 3)
    assert outcome.status == 0 and outcome.err.count("cannot know what this video shows") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--max-tokens", 50, "--compare"), "--max-tokens and --compare do not go together"),
        (("--max-tokens", 50, "--report", "page.html"), "--max-tokens and --report do not go together"),
        (("--max-tokens", 50, "--dry-run"), "--max-tokens and --dry-run do not go together"),
        (("--max-tokens", 50, "--frames", 8), "--max-tokens and --frames do not go together"),
        (("--max-tokens", 50, "--fps", 1, "--max-frames", 8), "--max-tokens and --max-frames do not go together"),
        (("--max-tokens", 50, "--seek", "keyframe"), "--max-tokens and --seek do not go together"),
        (("--max-tokens", 50, "--positions", "original"), "--max-tokens and --positions do not go together"),
        (("--max-tokens", 50, "--newlines", "counted"), "--max-tokens and --newlines counted do not go together"),
        (("--follow", 1, "--compare"), "--follow and --compare do not go together"),
        (("--follow", 1, "--start", 1), "--follow takes a file from its beginning on"),
        (("--half-life", 60), "--half-life is given without --max-tokens"),
        (("--max-tokens", 0), "max_tokens is 0: give a whole number of at least 1"),
        (("--max-tokens", 50, "--half-life", 0), "half_life_s is 0.0: give seconds above 0"),
        (("--follow", 0), "stall_s is 0.0: give seconds above 0"),
        (("--max-tokens", 50, "--method", "flexselect"), "chooses tokens by the question or inside the model"),
    ],
)
def test_what_does_not_go_together(
    tangovlm_command: Run, clip: Path, checkpoint: Path, options: tuple[object, ...], message: str
) -> None:
    outcome = tangovlm_command("ask", clip, QUESTION, "--model", checkpoint, *options)
    assert outcome.status == 2
    (line,) = [line for line in outcome.err.splitlines() if line.startswith("tangovlm: ")]
    assert message in line


def test_standard_input_cannot_be_followed(tangovlm_command: Run) -> None:
    outcome = tangovlm_command("ask", "-", QUESTION, "--follow", 1)
    assert outcome.status == 2 and "--follow needs a file" in outcome.err


def test_a_damaged_file(tangovlm_command: Run, clip: Path, checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    shutil.copy(clip, path)
    path.write_bytes(path.read_bytes()[:700])
    for options in (("--max-tokens", 50), ("--follow", 0.1)):
        outcome = tangovlm_command("ask", path, QUESTION, "--model", checkpoint, *options)
        assert outcome.status == 2 and "clip.mp4" in outcome.err
