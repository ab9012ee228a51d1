"""`load` and `ask` on a small checkpoint of every family: a file and a question in, an answer out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import tangovlm
from tangovlm import budget
from tangovlm.loading import VideoLLM
from tangovlm.pipeline import model_inputs
from tangovlm.twins.base import Twin
from tangovlm.twins.parts import FIRST_WORD, PAD, VOCABULARY
from tangovlm.video import decode
from tests.families.test_generate import HOSTS
from tests.pipeline.checkpoints import write_clip

FRAMES, QUESTION = 4, "w12 w30 w41"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


def write_checkpoint(host: Twin, folder: Path) -> None:
    host.model.save_pretrained(folder)
    vocabulary = {"<pad>": PAD, **host.specials}
    free = [number for number in range(FIRST_WORD) if number not in vocabulary.values()]
    vocabulary |= {"<unk>": free[0]} | {f"<{number}>": number for number in free[1:]}
    vocabulary |= {f"w{number}": number for number in range(FIRST_WORD, VOCABULARY)}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>", pad_token="<pad>")
    tokenizer.add_special_tokens({"additional_special_tokens": list(host.specials)})
    tokenizer.save_pretrained(folder)
    (folder / "video_preprocessor_config.json").write_text(json.dumps(host.preprocessor | {"num_frames": FRAMES}))
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{% for c in m['content'] if c.type == 'video' %}" + host.template + "{% endfor %}"
        "{% for c in m['content'] if c.type == 'text' %} {{ c.text }}{% endfor %}{% endfor %} w50"
    )


@pytest.fixture(scope="module", params=HOSTS)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[VideoLLM, Twin]:
    folder, host = tmp_path_factory.mktemp(request.param), HOSTS[request.param]()
    write_checkpoint(host, folder)
    return tangovlm.load(folder), host


def test_the_weights_are_those_of_the_checkpoint(loaded: tuple[VideoLLM, Twin]) -> None:
    llm, host = loaded
    assert llm.family.name == host.family
    assert llm.default_frames == FRAMES
    ours, theirs = llm.model.state_dict(), host.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_ask(loaded: tuple[VideoLLM, Twin], clip: Path) -> None:
    llm, _ = loaded
    options: dict[str, Any] = {"model": llm, "max_new_tokens": 4}
    everything = tangovlm.ask(clip, QUESTION, retention=1.0, **options)
    frames = decode(clip, FRAMES, size=lambda height, width: llm.family.frame_size(llm.config, height, width))
    inputs = model_inputs(llm, frames, QUESTION)
    stock = llm.model.generate(**inputs, max_new_tokens=4, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert everything == llm.tokenizer.decode(stock, skip_special_tokens=True).strip()
    fewer = tangovlm.ask(clip, QUESTION, retention=0.3, **options)
    assert fewer.tokens_before == everything.tokens_before == everything.tokens_after
    assert fewer.tokens_after == budget.count(0.3, fewer.tokens_before)
    assert not any("timestamps" in note for note in fewer.notes)


def test_another_size_of_frames(loaded: tuple[VideoLLM, Twin]) -> None:
    """Frames that nobody has resized yet."""
    llm, _ = loaded
    frames = torch.randint(0, 256, (FRAMES, 3, 90, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    pixels = llm.family.pixels(frames, llm.config)
    inputs = llm.family.inputs(llm.tokenizer, llm.template, pixels, QUESTION)
    output = llm.model.generate(**inputs, max_new_tokens=1)
    assert output.shape[1] == inputs["input_ids"].shape[1] + 1
