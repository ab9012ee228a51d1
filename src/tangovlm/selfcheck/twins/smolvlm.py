"""SmolVLM2 under test."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import LlamaConfig, SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMVisionConfig

from ...models.common.transformers_compat import Arg
from .common.base import Twin
from .common.parts import IMAGE, Image, Piece, Row, Video
from .common.weights import random, text_config

# As many pixels along a patch as tokens of a frame: 5.20 takes the one for the other.
PATCH, SIDE = 9, 6
NEWLINE, FROM, COLON, MARK, WHOLE, DIGITS = 2, 3, 4, 5, 6, 10


class SmolVLMTwin(Twin):
    """3 x 3 tokens a frame; text in front of each, with its time, and of the whole video."""

    family = "smolvlm2"
    placeholders = (IMAGE,)

    def make(self, attention: str, layers: int) -> Any:
        vision = SmolVLMVisionConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            image_size=PATCH * SIDE, patch_size=PATCH,
        )  # fmt: skip
        config = SmolVLMConfig(
            vision_config=vision, text_config=LlamaConfig(**text_config(layers)), image_token_id=IMAGE, scale_factor=2,
            attn_implementation=attention,
        )  # fmt: skip
        return SmolVLMForConditionalGeneration(config)

    def tiles(self, part: Video | Image) -> torch.Tensor:
        count = part.frames if isinstance(part, Video) else 1
        return random((count, 3, PATCH * SIDE, PATCH * SIDE), part.seed)

    def inputs(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Pixels have a row a prompt, filled up with zeros."""
        made = super().inputs(rows)
        if Arg.PIXELS in made:
            each = [[self.tiles(part) for part in row if isinstance(part, (Video, Image))] for row in rows]
            flat = [torch.cat(parts) if parts else torch.zeros(0, 3, PATCH * SIDE, PATCH * SIDE) for parts in each]
            made[Arg.PIXELS] = torch.nn.utils.rnn.pad_sequence(flat, batch_first=True)
        return made

    def pixels(self, parts: Sequence[Video | Image]) -> dict[str, Any]:
        return {Arg.PIXELS: torch.cat([self.tiles(part) for part in parts])[None]}

    def told(self, frames: int) -> dict[str, Any]:
        """A single frame looks like an image."""
        return {"timestamps": torch.arange(frames, dtype=torch.float64)}

    @torch.no_grad()
    def encode(self, part: Video | Image) -> Piece:
        output = self.model.model.get_image_features(self.tiles(part)[None], **{Arg.AS_DICT: True}).pooler_output
        rows = output.flatten(0, 1) if isinstance(output, torch.Tensor) else output[0]
        picture = [MARK, WHOLE, *[IMAGE] * 9, MARK]
        if isinstance(part, Image):
            return Piece(picture, rows)
        ids = [*range(30, 50), NEWLINE]
        for number in range(part.frames):
            # Two frames a second, so that some texts are the same.
            minutes, seconds = divmod(number // 2, 60)
            time = [DIGITS + int(digit) for digit in f"{minutes:02d}{seconds:02d}"]
            ids += [NEWLINE, FROM, FROM + 4, *time[:2], COLON, *time[2:], COLON, *picture]
        return Piece([*ids, NEWLINE], rows, grid=(part.frames, 3, 3))
