"""Qwen2-VL: a tower with rotary positions, two frames per step, four patches per token, M-RoPE in the text model."""

from ..inputs.frame_size import SizeRule
from ..registry import register_family
from .common.patch_sequence import PatchSequenceFamily

SIZE_RULE = SizeRule(128 * 28 * 28, 768 * 28 * 28, old_names=True, cap_tokens=128_000)
"""That of the stock video processor, which Qwen2.5-VL shares."""


@register_family("Qwen2VLForConditionalGeneration")
class Qwen2VL(PatchSequenceFamily):
    """`Qwen2VLForConditionalGeneration`."""

    name = "qwen2-vl"
    checkpoints = ("Qwen/Qwen2-VL-2B-Instruct", "Qwen/Qwen2-VL-7B-Instruct", "Qwen/Qwen2-VL-72B-Instruct")
    default_frames = 32
    keeps_positions = True
    size_rule = SIZE_RULE

    @property
    def widths(self) -> tuple[int, int]:
        """See `PatchSequenceFamily.widths`; in this configuration `hidden_size` is the width of the text model."""
        vision = self.model.config.vision_config
        return vision.embed_dim, int(vision.embed_dim * vision.mlp_ratio)
