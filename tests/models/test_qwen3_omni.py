"""Qwen3-Omni: times that are not rounded, and the thinker of a checkpoint of the whole model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

pytest.importorskip("transformers", minversion="5.21")

from transformers import Qwen3OmniMoeConfig, Qwen3OmniMoeForConditionalGeneration

import tangovlm
from tangovlm import registry
from tangovlm.errors import InputError, ModelError
from tangovlm.selfcheck.twins.common.norms import Norms
from tangovlm.selfcheck.twins.common.parts import PromptParts, RandomWords, Video
from tangovlm.selfcheck.twins.qwen3_omni import Qwen3OmniTwin
from tests.pipeline.test_ask_families import write_checkpoint
from tests.session.test_generate_families import NEW, ONE, check

LONG: PromptParts = (RandomWords(3, 1), Video(12, 2), RandomWords(5, 3))
EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8}
SMALL = {
    "vocab_size": 1100, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8,
}  # fmt: skip


def test_positions_are_fractions_of_a_second() -> None:
    """Six steps of 0.75 s at two ids a second; the text goes on one after the last of them."""
    host = Qwen3OmniTwin()
    positions = host.positions([host.encode_part(part, None) for part in LONG])
    assert positions[0, [4 + 9 * step for step in range(6)]].tolist() == [4.0, 5.5, 7.0, 8.5, 10.0, 11.5]
    assert positions[:, 4 + 54].tolist() == [12.5] * 3
    output = check(host, [LONG, ONE], Norms(0.2))
    assert [video.tokens_before for video in output.session.report.videos] == [54, 18]


def whole() -> Any:
    thinker = Qwen3OmniTwin().model
    rope = {"rope_type": "default", "rope_theta": 1e4}
    talker = {
        "text_config": SMALL | EXPERTS | {
            "shared_expert_intermediate_size": 8, "rope_parameters": rope | {"mrope_section": [1, 1, 2]},
        },
        "code_predictor_config": SMALL | {"rope_parameters": rope}, "num_code_groups": 2, "thinker_hidden_size": 48,
        "accept_hidden_layer": 1, "speaker_id": {"ethan": 5}, "spatial_merge_size": 2,
    }  # fmt: skip
    sound = {
        "codebook_size": 16, "hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2,
        "intermediate_size": 16, "num_hidden_layers": 1, "num_quantizers": 2, "decoder_dim": 16,
        "upsample_rates": (2, 2), "rope_parameters": rope,
    }  # fmt: skip
    config = Qwen3OmniMoeConfig(
        thinker_config=thinker.config.to_dict(), talker_config=talker, code2wav_config=sound, im_start_token_id=10
    )
    model = Qwen3OmniMoeForConditionalGeneration(config)
    model.thinker.load_state_dict(thinker.state_dict())
    return model.eval()


def test_the_whole_model_is_refused_and_its_thinker_attached() -> None:
    model, host = whole(), Qwen3OmniTwin()
    message = r"only a part of Qwen3OmniMoeForConditionalGeneration can be attached: attach model\.thinker"
    with pytest.raises(ModelError, match=message), tangovlm.attach(model, Norms()):
        pass
    inputs, options = host.inputs([ONE]), {"thinker_max_new_tokens": NEW, "thinker_do_sample": False}
    with tangovlm.attach(model.thinker, Norms()):
        said = model.generate(**inputs, **options, thinker_eos_token_id=None, generation_mode="text")
        assert said[0, -NEW:].tolist() == host.reference(ONE, Norms(), NEW)[0]
        with pytest.raises(InputError, match="the talker needs a hidden state for every token of the prompt"):
            model.generate(**inputs, **options)


def test_the_thinker_of_a_published_checkpoint_is_loaded(tmp_path: Path) -> None:
    """Published weights have the names of an older layout, and config.json names the whole model."""
    host = Qwen3OmniTwin()
    write_checkpoint(host, tmp_path)
    whole().save_pretrained(tmp_path)
    named = "Qwen3OmniMoeForConditionalGeneration"
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [named]
    assert registry.family_for(named).name == "qwen3-omni"
    with safe_open(tmp_path / "model.safetensors", "pt") as weights:
        names = set(weights.keys())
    assert {"thinker.model.embed_tokens.weight", "thinker.visual.merger.ln_q.weight"} <= names
    assert any(name.endswith("layers.0.mlp.experts.0.gate_proj.weight") for name in names)
    llm = tangovlm.load(tmp_path)
    assert type(llm.model).__name__ == "Qwen3OmniMoeThinkerForConditionalGeneration"
    wanted = host.model.state_dict()
    assert llm.model.state_dict().keys() == wanted.keys()
    assert all(torch.equal(value, wanted[name]) for name, value in llm.model.state_dict().items())
