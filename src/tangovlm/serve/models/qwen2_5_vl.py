"""Qwen2.5-VL on vLLM, with its videos pruned: kept tokens side by side, each at its own M-RoPE position."""

from typing import Any

import torch
from torch import Tensor

from ...budget import count
from ...models.common.layout import Grid
from ...models.common.transformers_compat import Arg
from ...models.qwen2_5_vl import Qwen25VL
from .. import compat
from . import mrope_positions as positions
from .qwen import QwenModel, Tower, item
from .qwen_processor import QwenProcessor

with compat.internals():
    from vllm.model_executor.models import qwen2_5_vl as stock
    from vllm.multimodal import MULTIMODAL_REGISTRY


class Served(Tower, Qwen25VL):
    """The family, bound to vLLM's model."""


class Processor(QwenProcessor, stock.Qwen2_5_VLMultiModalProcessor):
    """The stock processor, with placeholders for what will be kept."""

    _family = Qwen25VL

    def _seconds(self, mm_items: Any, data: Any) -> list[Tensor | None]:
        found, pair = super()._seconds(mm_items, data), self.info.get_hf_config().vision_config.temporal_patch_size
        steps = zip(data[Arg.VIDEO_GRIDS][:, 0].tolist(), data[Arg.STEP_SECONDS].tolist(), strict=True)
        # The stock processor may be told to take only some of the frames, evenly spaced.
        return [
            times
            if times is None or -(-times.numel() // pair) == number
            else torch.arange(number, dtype=torch.float64) * interval
            for times, (number, interval) in zip(found, steps, strict=True)
        ]

    def _placeholder(self, _fields: Any, grid: Grid, retention: float) -> list[int]:
        return [self.info.get_hf_config().video_token_id] * count(retention, grid.tokens)


@MULTIMODAL_REGISTRY.register_processor(
    Processor, info=stock.Qwen2_5_VLProcessingInfo, dummy_inputs=stock.Qwen2_5_VLDummyInputsBuilder
)
class TangoQwen25VL(QwenModel, stock.Qwen2_5_VLForConditionalGeneration):
    """The stock model; where options name a retention, its videos are pruned behind the tower."""

    served = Served

    @property
    def _width(self) -> int:
        return int(self.config.vision_config.out_hidden_size)

    def _placed(self, rows: Tensor, kept: Tensor, grid: Grid, video_input: Any, number: int) -> Tensor:
        fields = item(**{name: video_input[name][number] for name in (Arg.VIDEO_GRIDS, Arg.STEP_SECONDS)})
        offsets = self._alone(self._unpruned([], grid), fields)
        return positions.attached(rows, offsets[:, kept.cpu()], lead=0)

    def _unpruned(self, _ids: list[int], grid: Grid) -> list[int]:
        return [self.config.video_token_id] * grid.tokens


# vLLM tells models apart by the names of their classes here and there.
TangoQwen25VL.__name__ = stock.Qwen2_5_VLForConditionalGeneration.__name__
