"""Qwen3-VL: every step has its time as text, and layers of the tower are added to the first of the text model."""

from typing import Any, ClassVar

from ..inputs.frame_size import SizeRule
from ..inputs.pixels import PixelSpec
from ..registry import register_family
from .common.part import Part
from .common.patch_sequence import PatchSequenceFamily, TimestampedSteps


class TimeBeforeStep(TimestampedSteps):
    """Steps as in ``<2.5 seconds><|vision_start|><|video_pad|>...<|vision_end|>``."""

    def render_step(self, tokenizer: Any, seconds: float, tokens: int) -> str:
        """See `TimestampedSteps.render_step`."""
        return f"<{seconds:.1f} seconds><|vision_start|>{self.video_token(tokenizer) * tokens}<|vision_end|>"


@register_family("Qwen3VLForConditionalGeneration", "Qwen3VLMoeForConditionalGeneration")
class Qwen3VL(PatchSequenceFamily):
    """`Qwen3VLForConditionalGeneration` and its mixture of experts.

    A kept token keeps its own DeepStack features; those of tokens that were merged into it are dropped. Methods inside
    the text model are refused, as its first layers receive these features for all tokens of the prompt.
    """

    name = "qwen3-vl"
    checkpoints: ClassVar[tuple[str, ...]] = (
        "Qwen/Qwen3-VL-2B-Instruct",
        "Qwen/Qwen3-VL-4B-Instruct",
        "Qwen/Qwen3-VL-8B-Instruct",
        "Qwen/Qwen3-VL-32B-Instruct",
        "Qwen/Qwen3-VL-30B-A3B-Instruct",
        "Qwen/Qwen3-VL-235B-A22B-Instruct",
    )
    tested = PatchSequenceFamily.tested - {"pruning inside"}
    default_frames = 32
    keeps_positions = True
    middle_of_steps = True
    pixel_spec = PixelSpec(size=(0, 0), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    size_rule = SizeRule(128 * 32 * 32, 768 * 32 * 32, of="video", cap_tokens=768)
    prompt = Part(TimeBeforeStep)
