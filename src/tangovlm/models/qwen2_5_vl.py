"""Qwen2.5-VL: a tower that attends in windows, two frames per step, four patches per token, M-RoPE with seconds."""

from typing import Any

import torch
from torch import Tensor

from ..registry import register_family
from .common.layout import Grid
from .common.part import Part
from .common.patch_sequence import PatchSequenceFamily, PatchSequencePrompt
from .common.patch_signals import PatchSequenceSignals
from .common.prompt_format import VideoInput
from .common.transformers_compat import Arg
from .qwen2_vl import SIZE_RULE


class StepSeconds(PatchSequencePrompt):
    """The model receives the duration of a step, as its positions in time are seconds."""

    def media_kwargs(self, video: VideoInput) -> dict[str, Tensor]:
        """See `PromptFormat.media_kwargs`."""
        interval = self.family.layout.frames_per_step * video.seconds_per_frame
        return super().media_kwargs(video) | {Arg.STEP_SECONDS: torch.tensor([interval])}


class SignalsWithoutSinks(PatchSequenceSignals):
    """Tango's release masks no sinks."""

    def sinks(self, _grid: Grid) -> tuple[int, ...]:
        """See `EncoderSignals.sinks`."""
        return ()


def window_order(vision: Any, thw: Tensor) -> Tensor:
    """Raster index of each token in the order of windows, see `PatchSequenceFamily.token_order`.

    Parameters
    ----------
    vision: configuration of the tower.
    """
    from transformers.vision_utils import get_vision_window_index

    sizes = {name: getattr(vision, name) for name in ("spatial_merge_size", "window_size", "patch_size")}
    index: Tensor = get_vision_window_index(thw, **sizes)[0]
    return index


@register_family("Qwen2_5_VLForConditionalGeneration")
class Qwen25VL(PatchSequenceFamily):
    """`Qwen2_5_VLForConditionalGeneration`: the last layer attends to whole steps, whose tokens are in window order."""

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
    prompt = Part(StepSeconds)
    signals = Part(SignalsWithoutSinks)

    def token_order(self, thw: Tensor) -> Tensor:
        """See `PatchSequenceFamily.token_order`."""
        return window_order(self.model.config.vision_config, thw)
