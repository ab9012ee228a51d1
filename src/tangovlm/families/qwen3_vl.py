"""Qwen3-VL: time is text in front of every step, and layers of the tower are added to the first of the text model."""

from typing import Any

from torch import Tensor

from ..registry import register_family
from .inputs import step_times
from .packed import Packed

_START, _END = "<|vision_start|>", "<|vision_end|>"


@register_family("Qwen3VLForConditionalGeneration", "Qwen3VLMoeForConditionalGeneration")
class Qwen3VL(Packed):
    """`Qwen3VLForConditionalGeneration` and its mixture of experts.

    A kept token takes its own DeepStack features along, those of tokens that were merged into it are dropped. Methods
    inside the text model are refused, as its first layers are handed these features for all tokens that entered it.
    """

    name = "qwen3-vl"
    checkpoints = (
        "Qwen/Qwen3-VL-2B-Instruct",
        "Qwen/Qwen3-VL-4B-Instruct",
        "Qwen/Qwen3-VL-8B-Instruct",
        "Qwen/Qwen3-VL-32B-Instruct",
        "Qwen/Qwen3-VL-30B-A3B-Instruct",
        "Qwen/Qwen3-VL-235B-A22B-Instruct",
    )
    tested = Packed.tested - {"pruning inside"}
    default_frames = 32
    keeps_positions = True

    def mark(self, tokenizer: Any, prompt: str) -> str:
        """See `Written.mark`: with the brackets of the template, as each step has its own."""
        token = self.video_token(tokenizer)
        bracketed = _START + token + _END
        return bracketed if bracketed in prompt else token

    def written(self, tokenizer: Any, pixels: Tensor, seconds: Tensor) -> str:
        """See `Written.written`: each step has its time and its own brackets."""
        grid = self.packed(pixels)[2]
        step = _START + self.video_token(tokenizer) * (grid.height * grid.width) + _END
        return "".join(f"<{time:.1f} seconds>{step}" for time in step_times(seconds, grid.frames).tolist())
