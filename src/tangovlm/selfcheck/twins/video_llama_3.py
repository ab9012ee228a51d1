"""VideoLLaMA3 under test."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import VideoLlama3Config, VideoLlama3ForConditionalGeneration, VideoLlama3VisionConfig

from ...models.common.transformers_compat import Arg
from .common.base import Twin
from .common.parts import IMAGE, VIDEO, EncodedPart, Image, Video
from .common.weights import qwen2, random

PATCH, MERGE, TIME = 4, 2, 20


class VideoLlama3Twin(Twin):
    """3 x 3 tokens per frame, or 2 x 5 of a wide video, with a time before it; 6 x 6 tokens of an image."""

    family = "videollama3"
    specials: ClassVar = {"<|image_pad|>": IMAGE, "<|video_pad|>": VIDEO}
    template = "<|video_pad|>"
    preprocessor: ClassVar = {"size": {"shortest_edge": 256, "longest_edge": 262_144}}

    def make(self, attention: str, layers: int) -> Any:
        vision = VideoLlama3VisionConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, patch_size=PATCH
        )
        config = VideoLlama3Config(
            vision_config=vision, text_config=qwen2(layers), image_token_id=IMAGE, video_token_id=VIDEO,
            attn_implementation=attention,
        )  # fmt: skip
        return VideoLlama3ForConditionalGeneration(config)

    def patches(self, parts: Sequence[Video | Image]) -> tuple[Tensor, Tensor, Tensor]:
        grids, pixels = [], []
        for part in parts:
            height, width = (4, 10) if isinstance(part, Video) and part.wide else (6, 6)
            grids.append([part.frames if isinstance(part, Video) else 1, height, width])
            pixels.append(random((grids[-1][0] * height * width, 3 * PATCH**2), part.seed))
        sides = [MERGE if isinstance(part, Video) else 1 for part in parts]
        return torch.cat(pixels), torch.tensor(grids), torch.tensor(sides)

    def pixels(self, parts: Sequence[Video | Image]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        videos = [part for part in parts if isinstance(part, Video)]
        images = [part for part in parts if isinstance(part, Image)]
        if videos:
            names = (Arg.VIDEO_PIXELS, Arg.VIDEO_GRIDS, Arg.VIDEO_MERGE_SIZES)
            found |= dict(zip(names, self.patches(videos), strict=True))
        if images:
            names = (Arg.PIXELS, Arg.IMAGE_GRIDS, Arg.IMAGE_MERGE_SIZES)
            found |= dict(zip(names, self.patches(images), strict=True))
        return found

    @torch.no_grad()
    def encode(self, part: Video | Image) -> EncodedPart:
        pixels, thw, sides = self.patches([part])
        features = self.model.model.get_image_features(pixels, thw, sides, **{Arg.AS_DICT: True}).pooler_output[0]
        (steps, height, width), side = thw[0].tolist(), int(sides)
        piece = EncodedPart([IMAGE] * len(features), features, grid=(steps, height // side, width // side))
        if isinstance(part, Image):
            return piece
        size = len(features) // steps
        ids = [token for step in range(steps) for token in (TIME + step % 8, *[VIDEO] * size)]
        return replace(piece, ids=ids)
