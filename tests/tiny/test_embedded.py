"""The checkpoints in the package: stock, small, and good at what they were trained for."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tangovlm.evaluate.runner import accuracy
from tangovlm.evaluate.runs import Run, build_run, unpruned_run
from tangovlm.evaluate.tangoworld import benchmark, load_questions
from tangovlm.pipeline.embedded import BUILTIN_NOTE, FOREIGN_NOTE, embedded_note
from tangovlm.pipeline.load import VideoLLM, load
from tangovlm.tiny.clip import decoded_frames, write_clip, write_demo
from tangovlm.tiny.export import SECOND_WEIGHTS, WEIGHTS
from tangovlm.tiny.synthetic.questions import KINDS
from tangovlm.tiny.synthetic.questions_v2 import KINDS as SECOND_KINDS
from tangovlm.tiny.synthetic.sampling import sample_clip
from tangovlm.video import decode
from tests.support.checkpoints import write_clip as write_other


@pytest.fixture(scope="module")
def llm() -> VideoLLM:
    return load()


@pytest.fixture(scope="module")
def second() -> VideoLLM:
    return load("tangovlm-tiny-2")


@pytest.mark.parametrize("weights", [WEIGHTS, SECOND_WEIGHTS], ids=["1", "2"])
def test_it_is_small(weights: Path) -> None:
    assert sum(file.stat().st_size for file in weights.iterdir()) <= 16_000_000


def test_its_class_is_stock(llm: VideoLLM) -> None:
    assert type(llm.model).__module__ == "transformers.models.llava_onevision.modeling_llava_onevision"
    assert llm.builtin
    assert llm.model.dtype == torch.float32


@pytest.mark.parametrize(
    ("asked", "bound"), [(unpruned_run(), 0.88), (build_run("tango", 0.1), 0.8)], ids=["all", "10 %"]
)
def test_it_answers_questions_about_clips_it_never_saw(llm: VideoLLM, asked: Run, bound: float) -> None:
    by_kind = accuracy(llm, asked, load_questions(108))
    assert tuple(by_kind) == KINDS
    assert sum(by_kind.values()) / len(KINDS) >= bound


def test_the_second_one_is_stock_and_deeper(llm: VideoLLM, second: VideoLLM) -> None:
    assert type(second.model) is type(llm.model)
    assert second.builtin
    assert second.name == "tangovlm-tiny-2"
    layers = [each.model.config.text_config.num_hidden_layers for each in (llm, second)]
    assert layers == [4, 12]
    assert second.model.config.text_config.max_position_embeddings == 32_768


def test_the_second_one_answers_questions_about_clips_it_never_saw(second: VideoLLM) -> None:
    asked = load_questions(96, lengths=(16, 32), benchmark=benchmark(2))
    by_kind = accuracy(second, unpruned_run(), asked)
    assert tuple(by_kind) == SECOND_KINDS
    assert sum(by_kind.values()) / len(SECOND_KINDS) >= 0.85


def test_a_file_decodes_to_the_frames_that_were_drawn(tmp_path: Path) -> None:
    clip = sample_clip(np.random.default_rng(8))
    write_clip(clip, tmp_path / "clip.mp4")
    drawn, _ = decoded_frames(clip)
    decoded = decode(tmp_path / "clip.mp4", 16, size=(112, 112))
    difference = (decoded.pixels.float() - drawn.pixels.float()).abs().mean((1, 2, 3))
    assert decoded.notes == ()
    assert torch.allclose(decoded.timestamps_s, drawn.timestamps_s, atol=0.13)
    assert difference.median() < 7  # the grain, which differs, makes up 5.6


def test_the_demo_clip_has_questions_with_answers(tmp_path: Path, llm: VideoLLM) -> None:
    questions = write_demo(tmp_path / "demo.mp4")
    other = write_other(tmp_path / "other.mp4")
    assert embedded_note(llm, tmp_path / "demo.mp4") == BUILTIN_NOTE
    assert embedded_note(llm, other) == FOREIGN_NOTE
    assert embedded_note(replace(llm, builtin=False), other) is None
    assert len(questions) >= 4
    assert all(text.endswith("?") and answer for text, answer in questions)
