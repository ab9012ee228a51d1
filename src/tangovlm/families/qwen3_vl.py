"""Qwen3-VL: time is text in front of every step, and layers of the tower are added to the first of the text model."""

from torch import Tensor

from ..registry import register_family
from .call import Grid
from .inputs import step_times
from .packed import Packed


@register_family("Qwen3VLForConditionalGeneration", "Qwen3VLMoeForConditionalGeneration")
class Qwen3VL(Packed):
    """`Qwen3VLForConditionalGeneration` and its mixture of experts.

    A kept token takes its own DeepStack features along, those of tokens that were merged into it are dropped.
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

    def expanded(self, prompt: str, token: str, grid: Grid, seconds: Tensor) -> str:
        """See `Packed.expanded`: each step has its time and its own brackets, in place of those of the template."""
        start, end = "<|vision_start|>", "<|vision_end|>"
        step = start + token * (grid.height * grid.width) + end
        steps = "".join(f"<{time:.1f} seconds>{step}" for time in step_times(seconds, grid.frames).tolist())
        return prompt.replace(start + token + end if start + token + end in prompt else token, steps)
