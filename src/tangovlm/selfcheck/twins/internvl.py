"""InternVL under test."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLVisionConfig

from ...models.common.transformers_compat import Arg, encodes_first
from .common.base import Twin
from .common.parts import IMAGE, EncodedPart, Image, Video
from .common.weights import qwen2, random

PATCH, SIDE = 7, 6
NEWLINE, FRAME, COLON, START, END, DIGITS = 2, 3, 4, 5, 6, 10


class InternVLTwin(Twin):
    """3 x 3 tokens per frame; text before each, with its number."""

    family = "internvl"
    placeholders = (IMAGE,)

    def make(self, attention: str, layers: int) -> Any:
        vision = InternVLVisionConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            layer_scale_init_value=1.0, image_size=(PATCH * SIDE,) * 2, patch_size=(PATCH,) * 2, attention_bias=True,
        )  # fmt: skip
        config = InternVLConfig(
            vision_config=vision, text_config=self.language(layers), image_token_id=IMAGE, image_seq_length=9,
            tie_word_embeddings=False, attn_implementation=attention,
        )  # fmt: skip
        return InternVLForConditionalGeneration(config)

    def language(self, layers: int) -> Any:
        """Config of the text model."""
        return qwen2(layers)

    def tiles(self, part: Video | Image) -> torch.Tensor:
        count = part.frames if isinstance(part, Video) else 1
        return random((count, 3, PATCH * SIDE, PATCH * SIDE), part.seed)

    def pixels(self, parts: Sequence[Video | Image]) -> dict[str, Any]:
        return {Arg.PIXELS: torch.cat([self.tiles(part) for part in parts])}

    @property
    def broken_uses(self) -> frozenset[str]:
        """Older releases copy every tile separately for several beams or answers."""
        return frozenset() if encodes_first(self.model) else frozenset({"beams", "sampling"})

    def attach_options(self, frames: int) -> dict[str, Any]:
        """A single frame looks like an image."""
        return {"timestamps": torch.arange(frames, dtype=torch.float64)}

    @torch.no_grad()
    def encode(self, part: Video | Image) -> EncodedPart:
        output = self.model.model.get_image_features(self.tiles(part), **{Arg.AS_DICT: True})
        features = output.pooler_output.flatten(0, 1)
        if isinstance(part, Image):
            return EncodedPart([START, *[IMAGE] * 9, END], features)
        ids: list[int] = []
        for number in range(1, part.frames + 1):
            ids += [NEWLINE] if number > 1 else []
            digits = [DIGITS + int(digit) for digit in str(number)]
            ids += [FRAME, *digits, COLON, START, *[IMAGE] * 9, END]
        return EncodedPart(ids, features, grid=(part.frames, 3, 3))
