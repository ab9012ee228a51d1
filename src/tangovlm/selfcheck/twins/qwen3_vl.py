"""Qwen3-VL under test."""

from dataclasses import replace
from typing import Any

import torch
from transformers import (
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
)

from ...models.common.transformers_compat import Arg
from .common.parts import EncodedPart, Image, Video
from .common.weights import text_config
from .qwen2_5_vl import END, IDS, MERGE, PATCH, ROPE, START, STEP, Qwen25VLTwin

TIME = 20
VISION = {
    "depth": 3, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "out_hidden_size": 48,
    "patch_size": PATCH, "spatial_merge_size": MERGE, "temporal_patch_size": STEP, "num_position_embeddings": 64,
    "deepstack_visual_indexes": [0, 1],
}  # fmt: skip


def text(layers: int) -> dict[str, Any]:
    """Settings of the text model, which has one layer more than those to which features of the tower are added."""
    return text_config(max(layers, 3)) | {"head_dim": 12, "rope_parameters": ROPE | {"mrope_interleaved": True}}


class Qwen3VLTwin(Qwen25VLTwin):
    """Two layers of the tower are added in the text model; each step has its time before it."""

    family = "qwen3-vl"
    seconds_per_step = 1.0

    def make(self, attention: str, layers: int) -> Any:
        config = Qwen3VLConfig(
            vision_config=VISION, text_config=text(layers), tie_word_embeddings=False, attn_implementation=attention,
            **IDS,
        )  # fmt: skip
        return Qwen3VLForConditionalGeneration(config)

    def times(self, _videos: int) -> dict[str, Any]:
        return {}

    @torch.no_grad()
    def encode(self, part: Video | Image) -> EncodedPart:
        piece = super().encode(part)
        assert piece.grid is not None
        pixels, thw = self.patches([part])
        kind = "video" if isinstance(part, Video) else "image"
        output = getattr(self.model.model, f"get_{kind}_features")(pixels, thw, **{Arg.AS_DICT: True})
        deep = getattr(output, "deepstack_features", None) or []
        layers = [layer if isinstance(layer, torch.Tensor) else layer[0] for layer in deep]
        ids = piece.ids[1:-1] if isinstance(part, Video) else piece.ids
        if isinstance(part, Video):
            steps, size = piece.grid[0], piece.grid[1] * piece.grid[2]
            ids = [token for step in range(steps) for token in (TIME + step % 8, START, *ids[:size], END)]
        return replace(piece, ids=ids, layers=layers)


class Qwen3VLMoeTwin(Qwen3VLTwin):
    """Every layer of the text model has experts."""

    def make(self, attention: str, layers: int) -> Any:
        experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
        config = Qwen3VLMoeConfig(
            vision_config=VISION, text_config=text(layers) | experts, tie_word_embeddings=False,
            attn_implementation=attention, **IDS,
        )  # fmt: skip
        return Qwen3VLMoeForConditionalGeneration(config)
