"""Qwen3.5 under test."""

from typing import Any

from transformers import (
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeConfig,
    Qwen3_5MoeForConditionalGeneration,
)

from .common.weights import text_config
from .qwen2_5_vl import IDS, MERGE, PATCH, ROPE, STEP
from .qwen3_vl import Qwen3VLTwin

VISION = {
    "depth": 3, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "out_hidden_size": 48,
    "patch_size": PATCH, "spatial_merge_size": MERGE, "temporal_patch_size": STEP, "num_position_embeddings": 64,
}  # fmt: skip


def text(layers: int) -> dict[str, Any]:
    """Settings of the text model: recurrent layers before and after one that attends, as in published models."""
    count = max(layers, 3)
    kinds = ["full_attention" if place == 1 else "linear_attention" for place in range(count)]
    return text_config(count) | {
        "head_dim": 16, "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2,
        "linear_num_value_heads": 4, "layer_types": kinds,
        "rope_parameters": ROPE | {"mrope_interleaved": True, "partial_rotary_factor": 0.75},
    }  # fmt: skip


class Qwen35Twin(Qwen3VLTwin):
    """Two recurrent layers and one that attends; each step has its time before it."""

    family = "qwen3.5"

    def make(self, attention: str, layers: int) -> Any:
        config = Qwen3_5Config(
            vision_config=VISION, text_config=text(layers), tie_word_embeddings=False, attn_implementation=attention,
            **IDS,
        )  # fmt: skip
        return Qwen3_5ForConditionalGeneration(config)


class Qwen35MoeTwin(Qwen35Twin):
    """Every layer of the text model has experts."""

    def make(self, attention: str, layers: int) -> Any:
        experts = {
            "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 32,
        }  # fmt: skip
        config = Qwen3_5MoeConfig(
            vision_config=VISION, text_config=text(layers) | experts, tie_word_embeddings=False,
            attn_implementation=attention, **IDS,
        )  # fmt: skip
        return Qwen3_5MoeForConditionalGeneration(config)
