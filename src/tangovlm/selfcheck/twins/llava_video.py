"""LLaVA-Video under test."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import LlavaOnevisionConfig, SiglipVisionConfig

from ...models.common.transformers_compat import Arg
from ...models.llava_video import LlavaVideoForConditionalGeneration
from .common.base import Twin
from .common.parts import IMAGE, VIDEO, EncodedPart, Image, Video
from .common.weights import qwen2, random

PATCH, SIDE = 7, 7
PIXELS = PATCH * SIDE


class LlavaVideoTwin(Twin):
    """3 x 3 tokens per frame (the last row and column of 7 x 7 patches are left out), and a newline after each row."""

    family = "llava-video"
    preprocessor: ClassVar = {"size": {"height": PIXELS, "width": PIXELS}}
    cell_pixels = 2 * PATCH

    def make(self, attention: str, layers: int) -> Any:
        vision = SiglipVisionConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=PIXELS,
            patch_size=PATCH, vision_use_head=True,
        )  # fmt: skip
        config = LlavaOnevisionConfig(
            vision_config=vision, text_config=qwen2(layers), image_token_index=IMAGE, video_token_index=VIDEO,
            vision_feature_layer=-1, vision_feature_select_strategy="full",
            image_grid_pinpoints=[[PIXELS, PIXELS], [PIXELS, 2 * PIXELS]], attn_implementation=attention,
        )  # fmt: skip
        return LlavaVideoForConditionalGeneration(config)

    def frames(self, part: Video) -> Tensor:
        return random((part.frames, 3, PIXELS, PIXELS), part.seed)

    def image(self, part: Image) -> dict[str, Any]:
        return {
            Arg.PIXELS: random((1, 2, 3, PIXELS, PIXELS), part.seed),
            Arg.IMAGE_SIZES: torch.tensor([[PIXELS, PIXELS]]),
        }

    def pixels(self, parts: Sequence[Video | Image]) -> dict[str, Any]:
        videos = [self.frames(part) for part in parts if isinstance(part, Video)]
        images = [part for part in parts if isinstance(part, Image)]
        assert len(images) < 2
        found = {Arg.VIDEO_PIXELS: torch.stack(videos)} if videos else {}
        return found | (self.image(images[0]) if images else {})

    @torch.no_grad()
    def encode(self, part: Video | Image) -> EncodedPart:
        """Videos from the stock tower and projector; images from stock code."""
        inner = self.model.model
        if isinstance(part, Image):
            features = inner.get_image_features(**self.image(part), **{Arg.AS_DICT: True}).pooler_output[0]
            return EncodedPart([IMAGE] * len(features), features)
        hidden = inner.vision_tower(self.frames(part), **{Arg.HIDDEN_STATES: True, Arg.AS_DICT: True}).hidden_states[-1]
        patches = inner.multi_modal_projector(hidden).view(part.frames, SIDE, SIDE, -1)
        half, features = SIDE // 2, []
        for frame in patches:
            for y in range(half):
                for x in range(half):
                    corners = (frame[2 * y + dy, 2 * x + dx] for dy in (0, 1) for dx in (0, 1))
                    features.append(sum(corners) / 4)
                features.append(inner.image_newline)
        return EncodedPart([VIDEO] * len(features), torch.stack(features), grid=(part.frames, half, half))

    def grid_indices(self, piece: EncodedPart) -> Tensor:
        half = SIDE // 2
        return torch.tensor([row for row in range(len(piece.ids)) if row % (half + 1) != half])

    def kept_features(self, _piece: EncodedPart, on_grid: Tensor) -> Tensor:
        half, kept = SIDE // 2, []
        for start in range(0, len(on_grid), half):
            row = on_grid[start : start + half].tolist()
            kept += [*row, any(row)]
        return torch.tensor(kept)
