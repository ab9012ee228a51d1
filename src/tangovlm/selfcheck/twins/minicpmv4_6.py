"""MiniCPM-V 4.6 under test."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import MiniCPMV4_6Config, MiniCPMV4_6ForConditionalGeneration

from ...models.common.transformers_compat import Arg, encodes_first
from .common.base import Twin
from .common.parts import IMAGE, VIDEO, EncodedPart, Image, Video
from .common.weights import random
from .qwen3_5 import text

PATCH, START, END = 4, 3, 4
VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 64,
    "patch_size": PATCH,
}  # fmt: skip


class MiniCPMV46Twin(Twin):
    """3 x 3 tokens per frame, or 2 x 5 of a wide video, with marks around them."""

    family = "minicpm-v-4.6"
    specials: ClassVar = {"<|image_pad|>": IMAGE, "<|video_pad|>": VIDEO, "<image>": START, "</image>": END}
    template = "<|video_pad|>"
    preprocessor: ClassVar = {"scale_resolution": 48, "use_image_id": False, "max_slice_nums": 1}

    def make(self, attention: str, layers: int) -> Any:
        config = MiniCPMV4_6Config(
            vision_config=VISION, text_config=text(layers) | {"model_type": "qwen3_5_text"}, insert_layer_id=1,
            image_token_id=IMAGE, video_token_id=VIDEO, attn_implementation=attention,
        )  # fmt: skip
        return MiniCPMV4_6ForConditionalGeneration(config)

    def sizes(self, part: Video | Image) -> Tensor:
        """Grids of the frames in patches ``(T, 2)``."""
        frames = part.frames if isinstance(part, Video) else 1
        return torch.tensor(
            [[8, 20] if isinstance(part, Video) and part.wide else [12, 12]] * frames, dtype=torch.int32
        )

    def packed(self, parts: Sequence[Video | Image]) -> tuple[Tensor, Tensor]:
        """Patches of all frames ``(1, 3, PATCH, S * PATCH)``, and their grids."""
        sizes = [self.sizes(part) for part in parts]
        patches = [
            random((1, 3, PATCH, int(size.prod(dim=1).sum()) * PATCH), part.seed)
            for part, size in zip(parts, sizes, strict=True)
        ]
        return torch.cat(patches, dim=-1), torch.cat(sizes)

    def pixels(self, parts: Sequence[Video | Image]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        videos = [part for part in parts if isinstance(part, Video)]
        images = [part for part in parts if isinstance(part, Image)]
        if videos:
            found[Arg.VIDEO_PIXELS], found[Arg.VIDEO_SIZES] = self.packed(videos)
        if images:
            found[Arg.PIXELS], found[Arg.SIZES] = self.packed(images)
        return found

    @property
    def broken_uses(self) -> frozenset[str]:
        """Older releases mix up the videos of a batch for several beams or answers."""
        return frozenset() if encodes_first(self.model) else frozenset({"beams", "sampling"})

    @torch.no_grad()
    def encode(self, part: Video | Image) -> EncodedPart:
        pixels, sizes = self.packed([part])
        frames = self.model.model.get_image_features(pixels, sizes, **{Arg.AS_DICT: True}).pooler_output
        (height, width), token = (sizes[0] // 4).tolist(), VIDEO if isinstance(part, Video) else IMAGE
        ids = [START, *[token] * (height * width), END] * len(frames)
        return EncodedPart(ids, torch.cat(list(frames)), grid=(len(frames), height, width))

    def with_changed_cell(
        self, inputs: dict[str, Any], grid: tuple[int, int, int], cell: tuple[int, int, int]
    ) -> dict[str, Any]:
        """See `Twin.with_changed_cell`; the patches of a frame are in raster order."""
        pixels = inputs[Arg.VIDEO_PIXELS].clone()
        (frames, height, width), (t, h, w) = grid, cell
        patches = pixels.view(3, PATCH, frames, 4 * height, 4 * width, PATCH)
        part = patches[:, :, t, 4 * h : 4 * h + 4, 4 * w : 4 * w + 4]
        part += 3 * part.sign()
        return inputs | {Arg.VIDEO_PIXELS: pixels}
