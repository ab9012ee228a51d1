"""Qwen2.5-VL on vLLM with pruned videos: kept tokens follow each other, each with its own M-RoPE position."""

from typing import Any

import torch
from torch import Tensor

from ...budget import count
from ...models.common.layout import Grid
from ...models.common.transformers_compat import Arg
from ...models.qwen2_5_vl import Qwen25VL
from .. import compatibility
from . import mrope_positions
from .qwen import QwenModel, ServedPatchFamily, item
from .qwen_processor import QwenProcessor

with compatibility.importing_vllm():
    from vllm.model_executor.models import qwen2_5_vl as stock
    from vllm.multimodal import MULTIMODAL_REGISTRY


class ServedQwen25VL(ServedPatchFamily, Qwen25VL):
    """The family, bound to the model of vLLM."""


class Processor(QwenProcessor, stock.Qwen2_5_VLMultiModalProcessor):
    """The stock processor, with placeholders for the kept tokens."""

    _family = Qwen25VL

    def _seconds(self, mm_items: Any, data: Any) -> list[Tensor | None]:
        frame_times, pair = (
            super()._seconds(mm_items, data),
            self.info.get_hf_config().vision_config.temporal_patch_size,
        )
        steps = zip(data[Arg.VIDEO_GRIDS][:, 0].tolist(), data[Arg.STEP_SECONDS].tolist(), strict=True)
        # The stock processor may sample only some of the frames, evenly spaced.
        return [
            times
            if times is None or -(-times.numel() // pair) == number
            else torch.arange(number, dtype=torch.float64) * interval
            for times, (number, interval) in zip(frame_times, steps, strict=True)
        ]

    def _placeholder(self, _fields: Any, grid: Grid, retention: float) -> list[int]:
        return [self.info.get_hf_config().video_token_id] * count(retention, grid.tokens)


@MULTIMODAL_REGISTRY.register_processor(
    Processor, info=stock.Qwen2_5_VLProcessingInfo, dummy_inputs=stock.Qwen2_5_VLDummyInputsBuilder
)
class TangoQwen25VL(QwenModel, stock.Qwen2_5_VLForConditionalGeneration):
    """The stock model, whose videos are pruned after the vision encoder if the options request it."""

    family_class = ServedQwen25VL

    @property
    def _width(self) -> int:
        return int(self.config.vision_config.out_hidden_size)

    def _place(self, features: Tensor, indices: Tensor, grid: Grid, video_input: Any, number: int) -> Tensor:
        fields = item(**{name: video_input[name][number] for name in (Arg.VIDEO_GRIDS, Arg.STEP_SECONDS)})
        offsets = self._video_positions(self._unpruned_ids([], grid), fields)
        return mrope_positions.append_positions(features, offsets[:, indices.cpu()], lead=0)

    def _unpruned_ids(self, _ids: list[int], grid: Grid) -> list[int]:
        return [self.config.video_token_id] * grid.tokens


# vLLM distinguishes models by the names of their classes in some places.
TangoQwen25VL.__name__ = stock.Qwen2_5_VLForConditionalGeneration.__name__
