"""`load` and `ask` with models whose prompts interleave frames and text: from a checkpoint to an answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import tangovlm
from tangovlm import budget
from tangovlm.pipeline.generation import model_inputs
from tangovlm.selfcheck.twins.common.base import Twin
from tangovlm.selfcheck.twins.common.weights import loud
from tangovlm.selfcheck.twins.internvl import InternVLTwin
from tangovlm.selfcheck.twins.llava_next_video import LlavaNextVideoTwin
from tangovlm.selfcheck.twins.smolvlm import SmolVLMTwin
from tangovlm.video import Frames
from tests.support.prompts import ByteTokenizer

TEMPLATE = (
    "{% for m in messages %}{% for c in m['content'] %}{{ '<video>\n' if c.type == 'video' else c.text }}"
    "{% endfor %}{% endfor %}"
)
CASES: dict[str, tuple[type[Twin], tuple[str, ...], dict[str, Any]]] = {
    "internvl": (InternVLTwin, ("<pad>", "<IMG_CONTEXT>", "<img>", "</img>", "<video>"), {}),
    "smolvlm2": (
        SmolVLMTwin,
        ("<pad>", "<image>", "<video>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"),
        {"size": {"longest_edge": 64}, "resample": 1},
    ),
    "llava-next-video": (LlavaNextVideoTwin, ("<pad>", "<image>", "<video>"), {"size": {"shortest_edge": 42}}),
}


def checkpoint(folder: Path, name: str) -> Path:
    host, special, config = CASES[name]
    tokenizer, model = ByteTokenizer(*special), host().model
    model.resize_token_embeddings(len(tokenizer))
    loud(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    saved = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(saved | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def clip(frames: int) -> Frames:
    pixels = torch.randint(0, 256, (frames, 3, 60, 90), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    return Frames(pixels, torch.arange(frames, dtype=torch.float64) / 2, fps=2.0, duration_s=frames / 2, notes=())


@pytest.mark.parametrize("name", CASES)
def test_load_and_ask(name: str, tmp_path: Path) -> None:
    llm = tangovlm.load(checkpoint(tmp_path, name))
    assert llm.family.name == name
    for frames in (1, 5):
        video = clip(frames)
        answer = tangovlm.ask(video, "Why?", model=llm, retention=0.3, max_new_tokens=3)
        assert (answer.tokens_before, answer.tokens_after) == (9 * frames, budget.count(0.3, 9 * frames))
        # With the times of `ask`, frames are not confused with images.
        assert not [note for note in answer.notes if "tell frames from images" in note]
        whole = tangovlm.ask(video, "Why?", model=llm, retention=1.0, max_new_tokens=3)
        inputs = model_inputs(llm, video, "Why?")
        stock = llm.model.generate(**inputs, max_new_tokens=3, do_sample=False)
        expected = llm.tokenizer.decode(stock[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert whole == expected.strip()
