"""SmolVLM2 under test."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import LlamaConfig, SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMVisionConfig

from ...models.common.transformers_compat import Arg
from .common.base import Twin
from .common.parts import IMAGE, EncodedPart, Image, PromptParts, Video
from .common.weights import random, text_config

# The side of a patch in pixels equals the number of tokens of a frame, as 5.20 confuses the two.
PATCH, SIDE = 9, 6
NEWLINE, FROM, COLON, MARK, WHOLE, DIGITS = 2, 3, 4, 5, 6, 10


class SmolVLMTwin(Twin):
    """3 x 3 tokens per frame; text before each with its time, and before the video."""

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

    def inputs(self, prompts: Sequence[PromptParts]) -> dict[str, Any]:
        """Pixels have one batch entry per prompt, padded with zeros."""
        made = super().inputs(prompts)
        if Arg.PIXELS in made:
            each = [[self.tiles(part) for part in prompt if isinstance(part, (Video, Image))] for prompt in prompts]
            flat = [torch.cat(parts) if parts else torch.zeros(0, 3, PATCH * SIDE, PATCH * SIDE) for parts in each]
            made[Arg.PIXELS] = torch.nn.utils.rnn.pad_sequence(flat, batch_first=True)
        return made

    def pixels(self, parts: Sequence[Video | Image]) -> dict[str, Any]:
        return {Arg.PIXELS: torch.cat([self.tiles(part) for part in parts])[None]}

    def attach_options(self, frames: int) -> dict[str, Any]:
        """A single frame looks like an image."""
        return {"timestamps": torch.arange(frames, dtype=torch.float64)}

    @torch.no_grad()
    def encode(self, part: Video | Image) -> EncodedPart:
        output = self.model.model.get_image_features(self.tiles(part)[None], **{Arg.AS_DICT: True}).pooler_output
        rows = output.flatten(0, 1) if isinstance(output, torch.Tensor) else output[0]
        picture = [MARK, WHOLE, *[IMAGE] * 9, MARK]
        if isinstance(part, Image):
            return EncodedPart(picture, rows)
        ids = [*range(30, 50), NEWLINE]
        for number in range(part.frames):
            # Two frames per second, so that some texts are equal.
            minutes, seconds = divmod(number // 2, 60)
            time = [DIGITS + int(digit) for digit in f"{minutes:02d}{seconds:02d}"]
            ids += [NEWLINE, FROM, FROM + 4, *time[:2], COLON, *time[2:], COLON, *picture]
        return EncodedPart([*ids, NEWLINE], rows, grid=(part.frames, 3, 3))
