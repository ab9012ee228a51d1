"""Qwen2.5-VL: a tower that attends in windows, two frames a step, four patches a token, M-RoPE with seconds."""

import torch
from torch import Tensor

from ..registry import register_family
from .call import Grid
from .packed import Packed, seconds_per_step


@register_family("Qwen2_5_VLForConditionalGeneration")
class Qwen25VL(Packed):
    """`Qwen2_5_VLForConditionalGeneration`: the last layer attends to whole steps, which lie in it window by window."""

    name = "qwen2.5-vl"
    checkpoints = (
        "Qwen/Qwen2.5-VL-3B-Instruct",
        "Qwen/Qwen2.5-VL-7B-Instruct",
        "Qwen/Qwen2.5-VL-32B-Instruct",
        "Qwen/Qwen2.5-VL-72B-Instruct",
    )
    default_frames = 32
    keeps_positions = True

    def raster(self, thw: Tensor) -> Tensor:
        """See `Packed.raster`."""
        from transformers.vision_utils import get_vision_window_index

        vision = self.model.config.vision_config
        sizes = {name: getattr(vision, name) for name in ("spatial_merge_size", "window_size", "patch_size")}
        index: Tensor = get_vision_window_index(thw, **sizes)[0]
        return index

    def sinks(self, _grid: Grid) -> tuple[int, ...]:
        """None are masked in the release."""
        return ()

    def arguments(self, pixels: Tensor, seconds: Tensor) -> dict[str, Tensor]:
        """See `Written.arguments`: positions in time are seconds."""
        interval = seconds_per_step(seconds, self.frames_per_step)
        return super().arguments(pixels, seconds) | {"second_per_grid_ts": torch.tensor([interval])}
