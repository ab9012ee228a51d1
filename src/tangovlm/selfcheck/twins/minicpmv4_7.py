"""MiniCPM-V 4.7 under test."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import MiniCPMV4_7Config, MiniCPMV4_7ForConditionalGeneration

from ...models.common.transformers_compat import Arg
from .common.parts import IMAGE, VIDEO, EncodedPart
from .minicpmv4_6 import END, START, VISION, MiniCPMV46Twin
from .qwen3_5 import text


class MiniCPMV47Twin(MiniCPMV46Twin):
    """The same inputs, with positions of several axes."""

    family = "minicpm-v-4.7"

    def make(self, attention: str, layers: int) -> Any:
        config = MiniCPMV4_7Config(
            vision_config=VISION, text_config=text(layers) | {"model_type": "qwen3_5_text"}, insert_layer_id=1,
            image_token_id=IMAGE, video_token_id=VIDEO, image_start_id=START, image_end_id=END, slice_start_id=5,
            slice_end_id=6, newline_id=7, attn_implementation=attention,
        )  # fmt: skip
        return MiniCPMV4_7ForConditionalGeneration(config)

    def extra_inputs(self, ids: Tensor) -> dict[str, Tensor]:
        return {Arg.TOKEN_TYPES: 2 * (ids == VIDEO).int() + (ids == IMAGE).int()}

    def positions(self, pieces: Sequence[EncodedPart]) -> Tensor:
        """A frame at position p has marks at (p, p - 1, p - 1) and (p, p + rows, p + columns).

        What follows is at p + the longer side of its grid + 1.
        """
        columns: list[tuple[int, int, int]] = []
        place = 0
        for piece in pieces:
            if piece.grid is None:
                columns += [(place + offset,) * 3 for offset in range(len(piece.ids))]
                place += len(piece.ids)
                continue
            frames, height, width = piece.grid
            for _ in range(frames):
                before = max(place - 1, 0)
                columns.append((place, before, before))
                columns += [(place, place + row, place + column) for row in range(height) for column in range(width)]
                columns.append((place, place + height, place + width))
                place += max(height, width) + 1
        return torch.tensor(columns).T if columns else torch.zeros(3, 0, dtype=torch.long)
