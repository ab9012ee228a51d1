"""A text model whose positions vLLM recomputes, or why it cannot be one; the rotation stays the same."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tangovlm.errors import ModelError
from tangovlm.serve.rope_config import position_limit, use_axes


def configured(**text: Any) -> SimpleNamespace:
    """A `ModelConfig` of vLLM for a text model of 4 heads with 16 channels."""
    mrope = text.pop("uses_mrope", False)
    values = {
        "model_type": "qwen2", "hidden_size": 64, "num_attention_heads": 4, "max_position_embeddings": 512,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    }  # fmt: skip
    return SimpleNamespace(hf_text_config=SimpleNamespace(**(values | text)), uses_mrope=mrope)


@pytest.mark.parametrize(
    ("text", "half"), [({}, 8), ({"head_dim": 24}, 12), ({"rope_parameters": {"partial_rotary_factor": 0.5}}, 4)]
)
def test_all_channels_belong_to_the_first_axis(text: dict[str, Any], half: int) -> None:
    config = configured(**text)
    before = config.hf_text_config.rope_parameters
    use_axes(config)
    assert config.hf_text_config.rope_parameters == {**before, "mrope_section": [half, 0, 0]}
    assert "mrope_section" not in before
    assert position_limit(config.hf_text_config) == 2048


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ({"model_type": "llama"}, "the text model is llama"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "scales its positions .yarn."),
        ({"uses_mrope": True}, "positions of its own kind"),
        ({"dual_chunk_attention_config": {"chunk_size": 8}}, "positions of its own kind"),
    ],
)
def test_other_text_models_are_refused(text: dict[str, Any], words: str) -> None:
    config = configured(**text)
    before = dict(vars(config.hf_text_config))
    with pytest.raises(ModelError, match=f"'original' cannot be served: .*{words}.*; choose 'contiguous'"):
        use_axes(config)
    assert vars(config.hf_text_config) == before


def test_the_rotation_is_that_of_one_axis() -> None:
    """Bit for bit, in vLLM's own code, for positions up to the limit."""
    pytest.importorskip("vllm")
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.model_executor.layers.rotary_embedding import get_rope

    config = configured()
    text = config.hf_text_config
    with set_current_vllm_config(VllmConfig()):
        plain = get_rope(16, 4 * 512, rope_parameters=dict(text.rope_parameters), dtype=torch.float32)
        use_axes(config)
        axes = get_rope(16, 512, rope_parameters=dict(text.rope_parameters), dtype=torch.float32)
    positions = torch.tensor([0, 1, 7, 511, 512, 1500, 2047])
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(7, 64, generator=generator), torch.randn(7, 32, generator=generator)
    expected = plain.forward_native(positions, query.clone(), key.clone())
    found = axes.forward_native(positions.expand(3, -1), query.clone(), key.clone())
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
