"""Video-LLaVA under test."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from transformers import CLIPVisionConfig, LlamaConfig, VideoLlavaConfig, VideoLlavaForConditionalGeneration

from ...models.common.transformers_compat import Arg, encodes_first
from .common.base import Twin
from .common.parts import IMAGE, VIDEO, EncodedPart, Image, Video
from .common.weights import random, text_config

PATCH, SIDE = 7, 3


class VideoLlavaTwin(Twin):
    """A class token and 3 x 3 tokens per frame."""

    family = "video-llava"
    preprocessor: ClassVar = {"size": {"shortest_edge": PATCH * SIDE}}

    def make(self, attention: str, layers: int) -> Any:
        vision = CLIPVisionConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, image_size=PATCH * SIDE,
            patch_size=PATCH, projection_dim=16,
        )  # fmt: skip
        config = VideoLlavaConfig(
            vision_config=vision, text_config=LlamaConfig(**text_config(layers)), image_token_index=IMAGE,
            video_token_index=VIDEO, attn_implementation=attention,
        )  # fmt: skip
        return VideoLlavaForConditionalGeneration(config)

    def frames(self, part: Video) -> torch.Tensor:
        return random((part.frames, 3, PATCH * SIDE, PATCH * SIDE), part.seed)

    def image(self, part: Image) -> torch.Tensor:
        return random((1, 3, PATCH * SIDE, PATCH * SIDE), part.seed)

    def pixels(self, parts: Sequence[Video | Image]) -> dict[str, Any]:
        videos = [self.frames(part) for part in parts if isinstance(part, Video)]
        images = [self.image(part) for part in parts if isinstance(part, Image)]
        found = {Arg.VIDEO_PIXELS: torch.stack(videos)} if videos else {}
        # The name in 5.17 is the one that the stock processor still uses.
        name = Arg.PIXELS if encodes_first(self.model) else Arg.IMAGE_PIXELS
        return found | ({name: torch.cat(images)} if images else {})

    @torch.no_grad()
    def encode(self, part: Video | Image) -> EncodedPart:
        inner = self.model.model
        if isinstance(part, Image):
            features = inner.get_image_features(self.image(part), **{Arg.AS_DICT: True}).pooler_output[0]
            return EncodedPart([IMAGE] * len(features), features, grid=(1, SIDE, SIDE))
        output = inner.get_video_features(self.frames(part)[None], **{Arg.AS_DICT: True})
        features = output.pooler_output.flatten(0, 1)
        return EncodedPart([VIDEO] * len(features), features, grid=(part.frames, SIDE, SIDE))

    def grid_indices(self, piece: EncodedPart) -> torch.Tensor:
        """The first feature of each frame is its class token, which an image has not."""
        assert piece.grid is not None
        frames, height, width = piece.grid
        if piece.ids[0] == IMAGE:
            return torch.arange(height * width)
        return torch.arange(frames * (1 + height * width)).view(frames, -1)[:, 1:].flatten()
