"""Qwen2.5-Omni's thinker under test."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

from ...inputs.frame_size import LIMIT
from ...models.common.transformers_compat import Arg
from .common.parts import IMAGE, VIDEO, EncodedPart
from .common.weights import text_config
from .qwen2_5_vl import END, IDS, MERGE, PATCH, ROPE, START, STEP, Qwen25VLTwin

AUDIO, AUDIO_START, AUDIO_END = 5, 6, 7
SOUND_IDS = {
    "audio_token_id": AUDIO, "audio_start_token_id": AUDIO_START, "audio_end_token_id": AUDIO_END,
}  # fmt: skip
Column = tuple[float, float, float]
"""A position: time, row, column."""


class Qwen25OmniTwin(Qwen25VLTwin):
    """Windows of 2 x 2 tokens as in Qwen2.5-VL; the text after a video goes on from its largest position."""

    family = "qwen2.5-omni"
    specials: ClassVar = {
        "<|IMAGE|>": IMAGE, "<|VIDEO|>": VIDEO, "<|AUDIO|>": AUDIO, "<|vision_bos|>": START, "<|vision_eos|>": END,
        "<|audio_bos|>": AUDIO_START, "<|audio_eos|>": AUDIO_END,
    }  # fmt: skip
    template = "<|vision_bos|><|VIDEO|><|vision_eos|>"
    # The stock processor does not read the areas in a checkpoint's files; those that it has itself are large.
    preprocessor: ClassVar = {"size": {"shortest_edge": 1, "longest_edge": 2}, LIMIT: 384}
    tokens_per_second = 3
    position_type: ClassVar[torch.dtype] = torch.long

    def make(self, attention: str, layers: int) -> Any:
        vision = {
            "depth": 3, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "out_hidden_size": 48,
            "patch_size": PATCH, "spatial_merge_size": MERGE, "temporal_patch_size": STEP, "window_size": 16,
            "fullatt_block_indexes": [0, 2],
        }  # fmt: skip
        sound = {
            "num_mel_bins": 8, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "d_model": 16,
            "max_source_positions": 100, "n_window": 10, "output_dim": 48,
        }  # fmt: skip
        config = Qwen2_5OmniThinkerConfig(
            vision_config=vision, audio_config=sound, text_config=text_config(layers) | {"rope_parameters": ROPE},
            position_id_per_seconds=self.tokens_per_second, seconds_per_chunk=2, tie_word_embeddings=False,
            attn_implementation=attention, **IDS, **SOUND_IDS,
        )  # fmt: skip
        return Qwen2_5OmniThinkerForConditionalGeneration(config)

    def times(self, videos: int) -> dict[str, Any]:
        return {Arg.VIDEO_STEP_SECONDS: torch.full((videos,), self.seconds_per_step)}

    def extra_inputs(self, _ids: Tensor) -> dict[str, Tensor]:
        return {}

    def positions(self, pieces: Sequence[EncodedPart]) -> Tensor:
        columns: list[Column] = []
        for piece in pieces:
            columns += self.columns(piece, 1 + max(columns[-1]) if columns else 0)
        return torch.tensor(columns, dtype=self.position_type).T if columns else torch.zeros(3, 0, dtype=torch.long)

    def columns(self, piece: EncodedPart, start: float) -> list[Column]:
        """Positions of a part of a prompt."""
        if piece.grid is None:
            return [(start + place,) * 3 for place in range(len(piece.ids))]
        cells = self.cells(piece, start + 1)
        return [(start,) * 3, *cells, (1 + max(cells[-1]),) * 3]

    def cells(self, piece: EncodedPart, start: float) -> list[Column]:
        """Positions of the placeholders of a video or an image."""
        assert piece.grid is not None
        frames, height, width = piece.grid
        times = [self.moment(step if VIDEO in piece.ids else 0) for step in range(frames)]
        return [(start + time, start + h, start + w) for time in times for h in range(height) for w in range(width)]

    def moment(self, step: int) -> float:
        """The position in time of a step of a video."""
        return int(step * self.seconds_per_step * self.tokens_per_second)
