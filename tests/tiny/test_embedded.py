"""The checkpoint in the package: stock, small, and good at what it was trained for."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import tangovlm
from tangovlm.budget import count
from tangovlm.pipeline import VideoLLM, load
from tangovlm.tiny.clip import seen_frames, write_clip, write_demo
from tangovlm.tiny.evaluate import evaluate, held_out_questions, main
from tangovlm.tiny.export import WEIGHTS
from tangovlm.tiny.questions import KINDS
from tangovlm.tiny.world import sample_clip
from tangovlm.video import decode


@pytest.fixture(scope="module")
def llm() -> VideoLLM:
    return load()


def test_it_is_small() -> None:
    assert sum(file.stat().st_size for file in WEIGHTS.iterdir()) <= 16_000_000


def test_its_class_is_stock(llm: VideoLLM) -> None:
    assert type(llm.model).__module__ == "transformers.models.llava_onevision.modeling_llava_onevision"
    assert llm.builtin
    assert llm.model.dtype == torch.float32


@pytest.mark.parametrize(("retention", "bound"), [(1.0, 0.8), (0.1, 0.7)])
def test_it_answers_questions_about_clips_it_never_saw(llm: VideoLLM, retention: float, bound: float) -> None:
    result = evaluate(llm, tangovlm.Tango(retention=retention), 63)
    assert result["questions"] == 63
    assert result["tokens_after"] == count(retention, 1024)
    assert result["exact_match"] >= bound
    assert result["accuracy"] >= bound


def test_the_benchmark_is_even_over_the_kinds_and_repeatable() -> None:
    counts = dict.fromkeys(KINDS, 0)
    texts = []
    for _, asked in held_out_questions(20):
        for question in asked:
            counts[question.kind] += 1
            texts.append(question.text)
    assert sorted(counts.values(), reverse=True) == [3, 3, 2, 2, 2, 2, 2, 2, 2]
    assert texts == [question.text for _, asked in held_out_questions(20) for question in asked]


def test_the_command_ends_with_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--questions", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"accuracy", "exact_match", "by_kind", "questions"} <= set(result)
    assert result["questions"] == 2


def test_the_command_refuses_a_wrong_retention(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--retention", "1.5"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_file_decodes_to_the_frames_that_were_drawn(tmp_path: Path) -> None:
    clip = sample_clip(np.random.default_rng(8))
    write_clip(clip, tmp_path / "clip.mp4")
    drawn, _ = seen_frames(clip)
    decoded = decode(tmp_path / "clip.mp4", 16, size=(112, 112))
    difference = (decoded.pixels.float() - drawn.pixels.float()).abs().mean((1, 2, 3))
    assert decoded.notes == ()
    assert torch.allclose(decoded.timestamps_s, drawn.timestamps_s, atol=0.13)
    assert difference.median() < 6


def test_the_demo_clip_has_questions_with_answers(tmp_path: Path) -> None:
    questions = write_demo(tmp_path / "demo.mp4")
    assert len(questions) >= 4
    assert all(text.endswith("?") and answer for text, answer in questions)
