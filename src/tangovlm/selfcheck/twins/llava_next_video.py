"""LLaVA-NeXT-Video under test."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaNextVideoConfig, LlavaNextVideoForConditionalGeneration

from ...models.common.transformers_compat import Arg
from .common.base import Twin
from .common.parts import IMAGE, VIDEO, EncodedPart, Image, Video
from .common.weights import random, text_config

PATCH, SIDE = 7, 6


class LlavaNextVideoTwin(Twin):
    """3 x 3 tokens per frame."""

    family = "llava-next-video"

    def __init__(self, attention: str = "sdpa", seed: int = 0, layers: int = 2) -> None:
        super().__init__(attention, seed, layers)
        with torch.no_grad():
            # Without a cache, stock code expects one more feature for a placeholder that the model generated.
            self.model.lm_head.weight[[IMAGE, VIDEO]] = 0

    def make(self, attention: str, layers: int) -> Any:
        pixels = PATCH * SIDE
        vision = CLIPVisionConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, image_size=pixels,
            patch_size=PATCH, projection_dim=16,
        )  # fmt: skip
        config = LlavaNextVideoConfig(
            vision_config=vision, text_config=LlamaConfig(**text_config(layers)), image_token_index=IMAGE,
            video_token_index=VIDEO, image_grid_pinpoints=[[pixels, pixels], [pixels, 2 * pixels]],
            attn_implementation=attention,
        )  # fmt: skip
        return LlavaNextVideoForConditionalGeneration(config)

    def frames(self, part: Video) -> torch.Tensor:
        return random((part.frames, 3, PATCH * SIDE, PATCH * SIDE), part.seed)

    def image(self, part: Image) -> dict[str, Any]:
        side = PATCH * SIDE
        return {Arg.PIXELS: random((1, 2, 3, side, side), part.seed), Arg.IMAGE_SIZES: torch.tensor([[side, side]])}

    def pixels(self, parts: Sequence[Video | Image]) -> dict[str, Any]:
        videos = [self.frames(part) for part in parts if isinstance(part, Video)]
        found = {Arg.VIDEO_PIXELS: torch.stack(videos)} if videos else {}
        images = [self.image(part) for part in parts if isinstance(part, Image)]
        assert len(images) < 2
        return found | (images[0] if images else {})

    @torch.no_grad()
    def encode(self, part: Video | Image) -> EncodedPart:
        inner = self.model.model
        if isinstance(part, Image):
            features = inner.get_image_features(**self.image(part), **{Arg.AS_DICT: True}).pooler_output[0]
            return EncodedPart([IMAGE] * len(features), features)
        output = inner.get_video_features(self.frames(part)[None], **{Arg.AS_DICT: True})
        features = output.pooler_output[0].flatten(0, -2)
        return EncodedPart([VIDEO] * len(features), features, grid=(part.frames, 3, 3))
