"""Gemma 4 under test."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import Gemma4Config, Gemma4ForConditionalGeneration, Gemma4TextConfig, Gemma4VisionConfig

from ...models.common.transformers_compat import Arg, counts_frames
from .common.base import Twin
from .common.parts import IMAGE, PAD, VIDEO, EncodedPart, Image, Video
from .common.weights import random, text_config

PATCH, POOL, MOST, WINDOW = 4, 2, 40, 24
START, END, AUDIO, TIME = 3, 4, 5, 20
TEXT: dict[str, Any] = {"head_dim": 12, "global_head_dim": 16, "sliding_window": WINDOW}


class Gemma4Twin(Twin):
    """3 x 3 tokens per frame, or 2 x 5 of a wide video, with a time before it; like the small published models.

    The layers have inputs of their own and a window, and the last two share keys and values with those before.
    """

    family = "gemma-4"
    specials: ClassVar = {
        "<|image|>": IMAGE, "<|video|>": VIDEO, "<|image>": START, "<image|>": END, "<|audio|>": AUDIO,
    }  # fmt: skip
    template = "<|video|>"
    preprocessor: ClassVar = {"max_soft_tokens": 70, "pooling_kernel_size": POOL, "patch_size": PATCH}
    text_settings: ClassVar[dict[str, Any]] = {"hidden_size_per_layer_input": 6, "num_kv_shared_layers": 2}

    def make(self, attention: str, layers: int) -> Any:
        layers = max(layers, 4)
        vision = Gemma4VisionConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4,
            head_dim=8, patch_size=PATCH, pooling_kernel_size=POOL, position_embedding_size=64,
        )  # fmt: skip
        plain, kinds = text_config(layers), ["sliding_attention", "full_attention"] * layers
        own = {"layer_types": kinds[:layers], "vocab_size_per_layer_input": plain["vocab_size"]}
        text = Gemma4TextConfig(**plain | TEXT | self.text_settings | own)
        config = Gemma4Config(
            vision_config=vision, text_config=text, image_token_id=IMAGE, video_token_id=VIDEO, audio_token_id=AUDIO,
            boi_token_id=START, eoi_token_id=END, tie_word_embeddings=False, attn_implementation=attention,
        )  # fmt: skip
        return Gemma4ForConditionalGeneration(config)

    def sides(self, part: Video | Image) -> tuple[int, int]:
        return (2, 5) if isinstance(part, Video) and part.wide else (3, 3)

    def frames(self, part: Video | Image) -> tuple[Tensor, Tensor]:
        """Patches ``(F, MOST, c)`` and their columns and rows, each frame padded."""
        count, (rows, columns) = part.frames if isinstance(part, Video) else 1, self.sides(part)
        places = [(column, row) for row in range(POOL * rows) for column in range(POOL * columns)]
        patches = torch.zeros(count, MOST, 3 * PATCH**2)
        patches[:, : len(places)] = 0.5 + 0.5 * random((count, len(places), 3 * PATCH**2), part.seed)
        positions = torch.full((count, MOST, 2), -1)
        positions[:, : len(places)] = torch.tensor(places)
        return patches, positions

    def pixels(self, parts: Sequence[Video | Image]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        videos = [part for part in parts if isinstance(part, Video)]
        if videos:
            each = [self.frames(part) for part in videos]
            join = torch.cat if counts_frames(self.model) else torch.stack
            found = {
                name: join(list(media))
                for name, media in zip((Arg.VIDEO_PIXELS, Arg.VIDEO_POSITIONS), zip(*each, strict=True), strict=True)
            }
            if counts_frames(self.model):
                found[Arg.FRAME_COUNTS] = torch.tensor([part.frames for part in videos])
        if images := [self.frames(part) for part in parts if isinstance(part, Image)]:
            names = (Arg.PIXELS, Arg.IMAGE_POSITIONS)
            found |= {name: torch.cat(media) for name, media in zip(names, zip(*images, strict=True), strict=True)}
        return found

    def extra_inputs(self, ids: Tensor) -> dict[str, Tensor]:
        return {Arg.TOKEN_TYPES: 2 * (ids == VIDEO).int() + (ids == IMAGE).int()}

    @torch.no_grad()
    def encode(self, part: Video | Image) -> EncodedPart:
        patches, positions = self.frames(part)
        output = self.model.model.get_image_features(patches, positions, **{Arg.AS_DICT: True})
        features, (rows, columns) = torch.cat(list(output.pooler_output)), self.sides(part)
        grid = (len(patches), rows, columns)
        if isinstance(part, Image):
            return EncodedPart([START, *[IMAGE] * len(features), END], features, grid=grid)
        picture = [START, *[VIDEO] * (rows * columns), END]
        return EncodedPart(
            [token for step in range(grid[0]) for token in (TIME + step % 8, *picture)], features, grid=grid
        )

    def with_changed_cell(
        self, inputs: dict[str, Any], grid: tuple[int, int, int], cell: tuple[int, int, int]
    ) -> dict[str, Any]:
        pixels, (t, h, w) = inputs[Arg.VIDEO_PIXELS].clone(), cell
        frame = pixels.view(-1, *pixels.shape[-2:])[t]
        for patch in ((POOL * h + y) * POOL * grid[2] + POOL * w + x for y in range(POOL) for x in range(POOL)):
            frame[patch] += 3 * (frame[patch] - 0.5).sign()
        return inputs | {Arg.VIDEO_PIXELS: pixels}

    def text_inputs(self, ids: Tensor, visual: Tensor, stay: Tensor) -> dict[str, Any]:
        # Visual tokens have the inputs of the padding.
        shown = ids.masked_fill(visual, PAD)
        return {Arg.LAYER_INPUTS: self.model.get_decoder().get_per_layer_inputs(shown[None], None)[:, stay]}


class Gemma4MoeTwin(Gemma4Twin):
    """Experts, values that are keys, and attention in both directions within a frame; like the large ones."""

    text_settings: ClassVar = {
        "hidden_size_per_layer_input": 0, "enable_moe_block": True, "num_experts": 4, "top_k_experts": 2,
        "moe_intermediate_size": 32, "attention_k_eq_v": True, "num_global_key_value_heads": 1,
        "use_bidirectional_attention": "vision",
    }  # fmt: skip

    def text_inputs(self, _ids: Tensor, visual: Tensor, stay: Tensor) -> dict[str, Any]:
        frames = (visual & ~visual.roll(1)).cumsum(0)[stay]
        seen, place = visual[stay], torch.arange(int(stay.sum()))
        before = place[:, None] >= place
        together = (frames[:, None] == frames) & seen[:, None] & seen
        near = place[:, None] - place < WINDOW
        masks = {"full_attention": before, "sliding_attention": (before | together) & near}
        least = torch.finfo(torch.float32).min
        return {Arg.MASK: {kind: torch.where(mask, 0.0, least)[None, None] for kind, mask in masks.items()}}
