"""GLM-4.1V, 4.5V and 4.6V under test."""

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import (
    Glm4vConfig,
    Glm4vForConditionalGeneration,
    Glm4vMoeConfig,
    Glm4vMoeForConditionalGeneration,
    Glm46VConfig,
    Glm46VForConditionalGeneration,
)

from ...models.common.transformers_compat import Arg
from .common.parts import IMAGE, VIDEO, EncodedPart, Image, Video
from .common.weights import text_config
from .qwen2_5_vl import MERGE, PATCH, STEP, Qwen25VLTwin

IMAGE_START, IMAGE_END, VIDEO_START, VIDEO_END, TIME = 3, 4, 5, 6, 20
IDS = {
    "image_token_id": IMAGE, "video_token_id": VIDEO, "image_start_token_id": IMAGE_START,
    "image_end_token_id": IMAGE_END, "video_start_token_id": VIDEO_START, "video_end_token_id": VIDEO_END,
}  # fmt: skip
VISION = {
    "depth": 3, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "out_hidden_size": 48, "image_size": 16,
    "patch_size": PATCH, "spatial_merge_size": MERGE, "temporal_patch_size": STEP,
}  # fmt: skip
# Half of a head's 12 channels are rotated.
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 1], "partial_rotary_factor": 0.5}


class Glm4vTwin(Qwen25VLTwin):
    """Each step is written as an image, followed by its time."""

    family = "glm-4v"
    specials: ClassVar = {
        "<|image|>": IMAGE, "<|video|>": VIDEO, "<|begin_of_image|>": IMAGE_START, "<|end_of_image|>": IMAGE_END,
        "<|begin_of_video|>": VIDEO_START, "<|end_of_video|>": VIDEO_END,
    }  # fmt: skip
    template = "<|begin_of_video|><|video|><|end_of_video|>"
    placeholders = (IMAGE,)
    seconds_per_step = 1.0

    def make(self, attention: str, layers: int) -> Any:
        text = text_config(layers) | {"rope_parameters": ROPE}
        config = Glm4vConfig(vision_config=VISION, text_config=text, attn_implementation=attention, **IDS)
        return Glm4vForConditionalGeneration(config)

    def times(self, _videos: int) -> dict[str, Any]:
        return {}

    def extra_inputs(self, ids: Tensor) -> dict[str, Tensor]:
        inside = (ids == VIDEO_START).cumsum(1) > (ids == VIDEO_END).cumsum(1)
        return {Arg.TOKEN_TYPES: (ids == IMAGE).int() * (1 + inside.int())}

    @torch.no_grad()
    def encode(self, part: Video | Image) -> EncodedPart:
        piece = super().encode(part)
        assert piece.grid is not None
        steps, size = piece.grid[0], piece.grid[1] * piece.grid[2]
        frame = [IMAGE_START, *[IMAGE] * size, IMAGE_END]
        if isinstance(part, Image):
            return replace(piece, ids=frame)
        ids = [token for step in range(steps) for token in (*frame, TIME + step % 8)]
        return replace(piece, ids=[VIDEO_START, *ids, VIDEO_END])


class Glm4vMoeTwin(Glm4vTwin):
    """GLM-4.5V: the second layer has experts; channels of a head are paired as in Qwen's models."""

    def make(self, attention: str, layers: int) -> Any:
        text = text_config(layers) | {
            "rope_parameters": ROPE, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
            "n_shared_experts": 1, "first_k_dense_replace": 1,
        }  # fmt: skip
        config = Glm4vMoeConfig(vision_config=VISION, text_config=text, attn_implementation=attention, **IDS)
        return Glm4vMoeForConditionalGeneration(config)


class Glm46VTwin(Glm4vTwin):
    """The class of GLM-4.6V."""

    def make(self, attention: str, layers: int) -> Any:
        text = text_config(layers) | {"rope_parameters": ROPE, "model_type": "glm4v_text"}
        vision = VISION | {"model_type": "glm4v_vision"}
        config = Glm46VConfig(vision_config=vision, text_config=text, attn_implementation=attention, **IDS)
        return Glm46VForConditionalGeneration(config)
