"""A real clip, a tiny random checkpoint in stock format, and the command line run in this process."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)

from tangovlm import registry
from tangovlm.cli import main
from tests.support.adaptive import LargeTokens

SIDE, FRAMES, TOKENS_PER_FRAME = 56, 4, 16
SPECIAL = ["<|im_end|>", "<|endoftext|>", "<image>", "<video>"]
TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}<video>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}"
)


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve frames, 1.5 s, of a bright square that moves; H.264."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(8))
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(12):
            picture = np.full((64, 96, 3), 70, dtype=np.uint8)
            picture[20:44, 6 * number : 6 * number + 24] = (240, 200, 30)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA-OneVision of random weights with its pooling head: 4 frames of 16 tokens."""
    path = tmp_path_factory.mktemp("checkpoint")
    tokenizer = _tokenizer()
    tokenizer.save_pretrained(path)
    torch.manual_seed(0)
    LlavaOnevisionForConditionalGeneration(_config(tokenizer)).save_pretrained(path)
    (path / "chat_template.jinja").write_text(TEMPLATE)
    video = {
        "video_processor_type": "LlavaOnevisionVideoProcessor",
        "size": {"height": SIDE, "width": SIDE},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "num_frames": FRAMES,
    }
    (path / "video_preprocessor_config.json").write_text(json.dumps(video))
    return path


def _tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {symbol: place for place, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=SPECIAL[0], pad_token=SPECIAL[1])


def _config(tokenizer: PreTrainedTokenizerFast) -> LlavaOnevisionConfig:
    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE, patch_size=7,
        vision_use_head=True,
    )  # fmt: skip
    text = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, eos_token_id=tokenizer.eos_token_id, bos_token_id=None, tie_word_embeddings=True,
    )  # fmt: skip
    return LlavaOnevisionConfig(
        vision_config=vision, text_config=text, image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"), vision_feature_layer=-1,
        vision_feature_select_strategy="full", image_grid_pinpoints=[[SIDE, SIDE]], tie_word_embeddings=True,
    )  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    status: int
    out: str
    err: str
    asked_json: bool = False

    @property
    def json(self) -> Any:
        """The last line of stdout."""
        return json.loads(self.out.splitlines()[-1])

    def refused(self, *words: str) -> None:
        """Fail unless it ended with status 2, one line on stderr that holds the words, and nothing on stdout.

        With ``--json`` the line must be on stdout too, in a JSON object.
        """
        assert self.status == 2
        assert self.err.endswith("\n")
        assert self.err.count("\n") == 1, self.err
        error = {"error": self.err.removeprefix("tangovlm: ").rstrip("\n")}
        assert self.out == (f"{json.dumps(error)}\n" if self.asked_json else "")
        for word in words:
            assert word in self.err, self.err


Run = Callable[..., Outcome]


@pytest.fixture
def tangovlm_command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line; every argument is turned into text."""
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments: object) -> Outcome:
        capfd.readouterr()
        status = main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Outcome(status, captured.out, captured.err, "--json" in arguments)

    return run


@pytest.fixture
def large_tokens(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a registered method that can keep adaptive numbers of tokens."""
    registry.methods()
    monkeypatch.setitem(registry._methods, LargeTokens.name, LargeTokens)
    return LargeTokens.name
