"""LLaVA-OneVision under test."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration, SiglipVisionConfig

from ...models.common.transformers_compat import Arg
from .common.base import Twin
from .common.parts import IMAGE, VIDEO, EncodedPart, Image, Video
from .common.weights import qwen2, random

PATCH, SIDE = 7, 6


class LlavaOnevisionTwin(Twin):
    """3 x 3 tokens per frame, and a newline after a video."""

    family = "llava-onevision"
    preprocessor: ClassVar = {"size": {"height": PATCH * SIDE, "width": PATCH * SIDE}}

    def make(self, attention: str, layers: int) -> Any:
        pixels = PATCH * SIDE
        vision = SiglipVisionConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=pixels,
            patch_size=PATCH, vision_use_head=True,
        )  # fmt: skip
        config = LlavaOnevisionConfig(
            vision_config=vision, text_config=qwen2(layers), image_token_index=IMAGE, video_token_index=VIDEO,
            vision_feature_layer=-1, vision_feature_select_strategy="full",
            image_grid_pinpoints=[[pixels, pixels], [pixels, 2 * pixels]], attn_implementation=attention,
        )  # fmt: skip
        return LlavaOnevisionForConditionalGeneration(config)

    def frames(self, part: Video) -> torch.Tensor:
        return random((part.frames, 3, PATCH * SIDE, PATCH * SIDE), part.seed)

    def pixels(self, parts: Sequence[Video | Image]) -> dict[str, Any]:
        videos = [self.frames(part) for part in parts if isinstance(part, Video)]
        images = [part for part in parts if isinstance(part, Image)]
        found = {Arg.VIDEO_PIXELS: torch.stack(videos)} if videos else {}
        for part in images:
            found |= self.image(part)
        assert len(images) < 2
        return found

    def image(self, part: Image) -> dict[str, Any]:
        side = PATCH * SIDE
        return {Arg.PIXELS: random((1, 2, 3, side, side), part.seed), Arg.IMAGE_SIZES: torch.tensor([[side, side]])}

    @torch.no_grad()
    def encode(self, part: Video | Image) -> EncodedPart:
        inner = self.model.model
        if isinstance(part, Image):
            features = inner.get_image_features(**self.image(part), **{Arg.AS_DICT: True}).pooler_output[0]
            return EncodedPart([IMAGE] * len(features), features)
        features = inner.get_video_features(self.frames(part)[None], **{Arg.AS_DICT: True}).pooler_output[0]
        grid = (part.frames, (SIDE + 1) // 2, (SIDE + 1) // 2)
        if len(features) == grid[0] * grid[1] * grid[2]:
            # Older releases add the newline later.
            features = torch.cat([features, inner.image_newline[None]])
        return EncodedPart([VIDEO] * len(features), features, grid=grid)
