"""Qwen2.5-VL: a tower that attends in windows, two frames a step, four patches a token, M-RoPE with seconds."""

import torch
from torch import Tensor

from ..registry import register_family
from .common.layout import Grid
from .common.patch_sequence import PatchSequenceFamily
from .common.prompt_format import VideoInput
from .common.transformers_compat import Arg
from .qwen2_vl import SIZE_RULE


@register_family("Qwen2_5_VLForConditionalGeneration")
class Qwen25VL(PatchSequenceFamily):
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
    size_rule = SIZE_RULE

    def raster(self, thw: Tensor) -> Tensor:
        """See `PatchSequenceFamily.raster`."""
        from transformers.vision_utils import get_vision_window_index

        vision = self.model.config.vision_config
        sizes = {name: getattr(vision, name) for name in ("spatial_merge_size", "window_size", "patch_size")}
        index: Tensor = get_vision_window_index(thw, **sizes)[0]
        return index

    def sinks(self, _grid: Grid) -> tuple[int, ...]:
        """None are masked in the release."""
        return ()

    def media_kwargs(self, video: VideoInput) -> dict[str, Tensor]:
        """See `PromptFormat.media_kwargs`: positions in time are seconds."""
        interval = self.frames_per_step * seconds_per_frame(video)
        return super().media_kwargs(video) | {Arg.STEP_SECONDS: torch.tensor([interval])}


def seconds_per_frame(video: VideoInput) -> float:
    """Mean time between two frames of a video.

    As in the stock processor, it is the length of the whole video over the number of frames that are taken of it; where
    that is unknown, the mean distance of their times, and a second for a single frame.
    """
    if video.sampled_fps:
        return 1 / video.sampled_fps
    if video.duration_s:
        return video.duration_s / video.frames
    times = video.times
    interval = float(times[-1] - times[0]) / (video.frames - 1) if video.frames > 1 else 1.0
    return interval or 1.0
