"""Qwen2-VL: a tower with rotary positions, two frames a step, four patches a token, and M-RoPE in the text model."""

from ..registry import register_family
from .packed import Packed


@register_family("Qwen2VLForConditionalGeneration")
class Qwen2VL(Packed):
    """`Qwen2VLForConditionalGeneration`."""

    name = "qwen2-vl"
    checkpoints = ("Qwen/Qwen2-VL-2B-Instruct", "Qwen/Qwen2-VL-7B-Instruct", "Qwen/Qwen2-VL-72B-Instruct")
    default_frames = 32
    keeps_positions = True

    @property
    def widths(self) -> tuple[int, int]:
        """See `Packed.widths`; the configuration calls the width of the text model the hidden size."""
        vision = self.model.config.vision_config
        return vision.embed_dim, int(vision.embed_dim * vision.mlp_ratio)
