"""Qwen2-VL under test."""

from typing import Any

from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from .common.weights import text_config
from .qwen2_5_vl import IDS, MERGE, PATCH, ROPE, STEP, Qwen25VLTwin


class Qwen2VLTwin(Qwen25VLTwin):
    """As Qwen2.5-VL, with one position id per step, whatever its time."""

    family = "qwen2-vl"
    seconds_per_step = 1.0

    def make(self, attention: str, layers: int) -> Any:
        vision = {
            "depth": 2, "embed_dim": 32, "hidden_size": 48, "num_heads": 4, "mlp_ratio": 2, "patch_size": PATCH,
            "spatial_merge_size": MERGE, "temporal_patch_size": STEP,
        }  # fmt: skip
        text = text_config(layers) | {"rope_parameters": ROPE}
        config = Qwen2VLConfig(
            vision_config=vision, text_config=text, tie_word_embeddings=False, attn_implementation=attention, **IDS
        )
        return Qwen2VLForConditionalGeneration(config)

    def times(self, _videos: int) -> dict[str, Any]:
        return {}
