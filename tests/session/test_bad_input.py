"""Prompts that do not fit their videos or the model: one line that says what is wrong and how to fix it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DynamicCache

import tangovlm
from tangovlm.errors import InputError
from tangovlm.selfcheck.twins.common.norms import Norms
from tests.session.test_versions import make_qwen, qwen_inputs
from tests.support.checkpoints import write_checkpoint, write_clip
from tests.support.stock import OLDEST
from tests.support.tiny_models import make_model, make_videos, pad_left, placeholders, words

FRAMES = 4
GREEDY: dict[str, Any] = {"max_new_tokens": 2, "do_sample": False}


@pytest.fixture(scope="module")
def model() -> Any:
    return make_model()


def inputs_for(model: Any, rows: int = 1, frames: int = FRAMES) -> dict[str, Any]:
    ids = [[*words(3 + row, 1), *placeholders(model, frames), *words(5, 2)] for row in range(rows)]
    return pad_left(ids) | {"pixel_values_videos": make_videos(model, rows, frames)}


# --- placeholders and features ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["generate", "forward"])
@pytest.mark.parametrize("retention", [0.3, 1.0])
@torch.no_grad()
def test_fewer_placeholders_than_features(model: Any, call: str, retention: float) -> None:
    inputs = inputs_for(model, rows=2) | {"pixel_values_videos": make_videos(model, 2, FRAMES + 1)}
    message = "prompt has 130 video placeholders but its videos have 162 features: make .* processor"
    with tangovlm.attach(model, Norms(retention)), pytest.raises(InputError, match=message):
        _ = model.generate(**inputs, **GREEDY) if call == "generate" else model(**inputs)


def test_a_video_without_placeholders(model: Any) -> None:
    inputs = pad_left([words(5, 1)]) | {"pixel_values_videos": make_videos(model, 1, FRAMES)}
    with tangovlm.attach(model, Norms()), pytest.raises(InputError, match="0 video placeholders .* 65 features"):
        model.generate(**inputs, **GREEDY)


def test_placeholders_of_other_grids() -> None:
    qwen = make_qwen()
    inputs = qwen_inputs()
    inputs["video_grid_thw"][0, 0] = 3
    inputs["pixel_values_videos"] = torch.randn(3 * 32 + 16, inputs["pixel_values_videos"].shape[1])
    with tangovlm.attach(qwen, Norms()), pytest.raises(InputError, match="24 video placeholders .* 28 features"):
        qwen.generate(**inputs, **GREEDY)


@pytest.mark.parametrize("way", [{"num_beams": 2}, {"do_sample": True, "num_return_sequences": 3}])
def test_copies_are_no_mismatch(model: Any, way: dict[str, Any]) -> None:
    with tangovlm.attach(model, Norms()) as session:
        model.generate(**inputs_for(model, rows=2), **GREEDY | way)
    copies = way.get("num_beams", 1) * way.get("num_return_sequences", 1)
    assert len(session.report.videos) == 2 * (copies if OLDEST else 1)


def test_a_prompt_on_a_filled_cache_is_no_mismatch(model: Any) -> None:
    """The ids of a second turn have placeholders of the first turn's video too, which is not encoded again."""
    first, cache = inputs_for(model), DynamicCache(config=model.config.text_config)
    with tangovlm.attach(model, Norms()) as session:
        said = model.generate(**first, past_key_values=cache, **GREEDY)
        ids = torch.cat([said, torch.tensor([[*placeholders(model, FRAMES), *words(3, 8)]])], dim=1)
        more = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "past_key_values": cache}
        model.generate(**more, pixel_values_videos=make_videos(model, 1, FRAMES, seed=5), **GREEDY)
    assert len(session.report.videos) == 2


def test_features_of_a_direct_call_are_the_stock_ones(model: Any) -> None:
    """They are not checked against the prompt of an earlier call, and have no tags."""
    videos = make_videos(model, 3, FRAMES)
    with torch.no_grad():
        wanted = model.model.get_video_features(videos, return_dict=True).pooler_output
        with tangovlm.attach(model, Norms()) as session:
            model.generate(**inputs_for(model), **GREEDY)
            model(**inputs_for(model))
            got = model.model.get_video_features(videos, return_dict=True).pooler_output
    assert torch.equal(got, wanted)
    assert len(session.report.videos) == 2


# --- the context ------------------------------------------------------------------------------------------------------


def short(limit: int) -> Any:
    model = make_model(layers=4)
    model.config.text_config.max_position_embeddings = limit
    assert model.get_decoder().config.max_position_embeddings == limit
    return model


METHODS = {
    "tango": tangovlm.method("tango", retention=0.8),
    "no pruning": tangovlm.method("tango", retention=1.0),
    "pair": tangovlm.method("tango+fastv", retention=0.6),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("rows", [1, 2])
def test_beyond_the_context(name: str, rows: int) -> None:
    """The retention that the message proposes fits, and is nearly the largest that does."""
    model, pruner = short(60), METHODS[name]
    inputs = inputs_for(model, rows, frames=6)
    with tangovlm.attach(model, pruner), pytest.raises(InputError, match="context 60: give retention=") as caught:
        model.generate(**inputs, **GREEDY)
    message = str(caught.value)
    assert "\n" not in message
    assert ("after pruning" in message) == (name != "no pruning")
    fits = float(re.search(r"retention=(\S+) ", message).group(1))
    assert 0.29 < fits < pruner.retention
    other = tangovlm.method("tango+fastv" if name == "pair" else "tango", retention=fits)
    with tangovlm.attach(model, other):
        model.generate(**inputs, **GREEDY)
    if name != "pair":
        with tangovlm.attach(model, tangovlm.Tango(retention=fits + 0.08)), pytest.raises(InputError, match="context"):
            model.generate(**inputs, **GREEDY)


def test_a_second_call_proposes_the_same() -> None:
    model, messages = short(60), []
    with tangovlm.attach(model, tangovlm.Tango(retention=0.8)):
        for _ in range(2):
            with pytest.raises(InputError, match="context 60") as caught:
                model.generate(**inputs_for(model, frames=6), **GREEDY)
            messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_a_question_beyond_the_context(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 60
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    llm, clip = tangovlm.load(tmp_path / "model"), write_clip(tmp_path / "clip.mp4")
    with pytest.raises(InputError, match=r"67 tokens, the model's context 60: give retention=\S+ \(or --ret") as caught:
        tangovlm.ask(clip, "w20", model=llm, frames=4, retention=1.0)
    fits = float(re.search(r"retention=(\S+) ", str(caught.value)).group(1))
    assert tangovlm.ask(clip, "w20", model=llm, frames=4, retention=fits, max_new_tokens=1).tokens_after > 40


def test_pruning_inside_does_not_shorten_a_prompt_beyond_the_context() -> None:
    model = short(60)
    message = "105 tokens, the model's context 60: give at most 2 frames of this size, or a method that prunes before"
    with tangovlm.attach(model, tangovlm.method("fastv", retention=0.5)), pytest.raises(InputError, match=message):
        model.generate(**inputs_for(model, frames=6), **GREEDY)


def test_text_beyond_the_context() -> None:
    model = short(8)
    with tangovlm.attach(model, tangovlm.Tango(retention=0.1)), pytest.raises(InputError, match="give a shorter text"):
        model.generate(**inputs_for(model, frames=1), **GREEDY)


def test_a_prompt_of_exactly_the_context_is_accepted() -> None:
    model, inputs = short(4 + 64 + 5), inputs_for(make_model())
    assert inputs["input_ids"].shape[1] == 73
    with tangovlm.attach(model, tangovlm.Tango(retention=1.0)):
        model.generate(**inputs, max_new_tokens=1, do_sample=False)


# --- timestamps -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([0.0, 2.0, 1.0, 3.0], "video 0 do not increase: sort the frames"),
        ([1.0, 1.0, 1.0, 1.0], "increase strictly"),
        ([0.0, 1.0, 2.0, 3.0, 4.0], "video 0 has 2 steps of 2 frames but 5 timestamps"),
    ],
)
def test_timestamps_of_frames_in_steps(times: list[float], message: str) -> None:
    qwen = make_qwen()
    with pytest.raises(InputError, match=message), tangovlm.attach(qwen, tangovlm.Tango(), timestamps=times):
        qwen.generate(**qwen_inputs(), **GREEDY)
