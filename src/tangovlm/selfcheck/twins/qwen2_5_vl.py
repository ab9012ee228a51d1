"""Qwen2.5-VL under test."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from ...models.common.transformers_compat import Arg
from .common.base import Twin
from .common.parts import IMAGE, VIDEO, EncodedPart, Image, Video, mrope
from .common.weights import random, text_config

PATCH, MERGE, STEP = 4, 2, 2
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 2]}
START, END = 3, 4
IDS = {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": START, "vision_end_token_id": END}


class Qwen25VLTwin(Twin):
    """Windows of 2 x 2 tokens, two frames per step; 3 x 3 tokens, or 2 x 5 of a wide video, so windows are ragged."""

    family = "qwen2.5-vl"
    specials: ClassVar = {"<|image_pad|>": IMAGE, "<|video_pad|>": VIDEO, "<|vision_start|>": 3, "<|vision_end|>": 4}
    template = "<|vision_start|><|video_pad|><|vision_end|>"
    preprocessor: ClassVar = {"size": {"shortest_edge": 256, "longest_edge": 262_144}}
    seconds_per_step = 2.0
    tokens_per_second = 1

    def make(self, attention: str, layers: int) -> Any:
        vision = {
            "depth": 3, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "out_hidden_size": 48,
            "patch_size": PATCH, "spatial_merge_size": MERGE, "temporal_patch_size": STEP, "window_size": 16,
            "fullatt_block_indexes": [0, 2], "tokens_per_second": self.tokens_per_second,
        }  # fmt: skip
        text = text_config(layers) | {"rope_parameters": ROPE}
        config = Qwen2_5_VLConfig(
            vision_config=vision, text_config=text, tie_word_embeddings=False, attn_implementation=attention, **IDS
        )
        return Qwen2_5_VLForConditionalGeneration(config)

    # --- shared with similar models -----------------------------------------------------------------------------

    def thw(self, part: Video | Image) -> list[int]:
        rows, columns = (4, 10) if isinstance(part, Video) and part.wide else (6, 6)
        return [-(-part.frames // STEP) if isinstance(part, Video) else 1, rows, columns]

    def patches(self, parts: Sequence[Video | Image]) -> tuple[Tensor, Tensor]:
        channels = 3 * STEP * PATCH**2
        grids = [self.thw(part) for part in parts]
        rows = [random((t * h * w, channels), part.seed) for part, (t, h, w) in zip(parts, grids, strict=True)]
        return torch.cat(rows), torch.tensor(grids)

    def pixels(self, parts: Sequence[Video | Image]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        videos = [part for part in parts if isinstance(part, Video)]
        images = [part for part in parts if isinstance(part, Image)]
        if videos:
            found[Arg.VIDEO_PIXELS], found[Arg.VIDEO_GRIDS] = self.patches(videos)
            found |= self.times(len(videos))
        if images:
            found[Arg.PIXELS], found[Arg.IMAGE_GRIDS] = self.patches(images)
        return found

    def times(self, videos: int) -> dict[str, Any]:
        return {Arg.STEP_SECONDS: torch.full((videos,), self.seconds_per_step)}

    def extra_inputs(self, ids: Tensor) -> dict[str, Tensor]:
        return {Arg.TOKEN_TYPES: 2 * (ids == VIDEO).int() + (ids == IMAGE).int()}

    @torch.no_grad()
    def encode(self, part: Video | Image) -> EncodedPart:
        kind = "video" if isinstance(part, Video) else "image"
        pixels, thw = self.patches([part])
        rows = getattr(self.model.model, f"get_{kind}_features")(pixels, thw, **{Arg.AS_DICT: True}).pooler_output[0]
        token = VIDEO if isinstance(part, Video) else IMAGE
        steps, height, width = self.thw(part)
        ids = [START, *[token] * len(rows), END]
        return EncodedPart(ids, rows, grid=(steps, height // MERGE, width // MERGE))

    def positions(self, pieces: Sequence[EncodedPart]) -> Tensor:
        media = [piece for piece in pieces if piece.grid is not None]
        step = self.tokens_per_second * self.seconds_per_step
        return mrope(pieces, self.placeholders, [step if VIDEO in piece.ids else 1 for piece in media])
