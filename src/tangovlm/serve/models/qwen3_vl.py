"""Qwen3-VL on vLLM, with its videos pruned.

The place of a video in a prompt has the times of its steps as text, each in front of the step's tokens and their
brackets. How many tokens a step keeps is known only behind the tower: in the prompt all of them stand in the first
step, and the model hands the whole place out as embeddings, text among them.
"""

from typing import Any

import torch
from torch import Tensor

from ...budget import count
from ...inputs import timestamps
from ...models.common.layout import Clip, Grid, Signals
from ...models.common.transformers_compat import Arg
from ...models.qwen3_vl import Qwen3VL
from ...tokens import VideoTokens
from .. import compat
from ..options import ServeOptions
from . import mrope_positions as positions
from .qwen import QwenModel, Tower, item
from .qwen_processor import QwenProcessor

with compat.internals():
    from vllm.model_executor.models import qwen3_vl as stock
    from vllm.model_executor.models import qwen3_vl_moe as stock_moe
    from vllm.multimodal import MULTIMODAL_REGISTRY


def _written(config: Any, tokenizer: Any, times: Any, tokens: list[int], whole: bool) -> Any:
    """The place of a video in a prompt, with so many tokens in each of its steps; `whole` as without pruning."""
    names = ("vision_start_token_id", "vision_end_token_id", "video_token_id")
    return stock.Qwen3VLMultiModalProcessor.get_video_repl(
        tokens_per_frame=tokens,
        timestamps=times,
        tokenizer=tokenizer,
        select_token_id=whole,
        **{name: getattr(config, name) for name in names},
    )


class _StepTimes(list[float]):
    """Seconds of a video's steps, as its prompt has them, and of the frames ``(T,)`` of which they are means."""

    def __init__(self, steps: list[float], frames: Tensor) -> None:
        super().__init__(steps)
        self.frames = frames


class _Timed:
    """In front of stock facts about a model: where videos are pruned, times of steps remember those of their frames."""

    def _calculate_timestamps(self, indices: Any, video_fps: float, merge_size: int) -> list[float]:
        steps: list[float] = super()._calculate_timestamps(indices, video_fps, merge_size)  # type: ignore[misc]
        if ServeOptions.of(self.get_hf_config()) is None:  # type: ignore[attr-defined]
            return steps
        return _StepTimes(steps, torch.as_tensor(indices, dtype=torch.float64) / video_fps)


class Info(_Timed, stock.Qwen3VLProcessingInfo):
    """The stock facts about the model."""


class MoeInfo(_Timed, stock_moe.Qwen3VLMoeProcessingInfo):
    """The stock facts about the mixture of experts."""


class Processor(QwenProcessor, stock.Qwen3VLMultiModalProcessor):
    """The stock processor, with placeholders for what will be kept."""

    _family = Qwen3VL

    def _seconds(self, _mm_items: Any, data: Any) -> list[Tensor | None]:
        frames = [getattr(steps, "frames", None) for steps in data["timestamps"]]
        data["timestamps"] = [list(steps) for steps in data["timestamps"]]
        return [None if times is None else timestamps.of_frames(times, times.numel()) for times in frames]

    def _placeholder(self, fields: Any, grid: Grid, retention: float) -> Any:
        tokens = [grid.height * grid.width] * grid.frames
        if retention < 1:
            tokens = [count(retention, grid.tokens)] + [0] * (grid.frames - 1)
        config, tokenizer = self.info.get_hf_config(), self.info.get_tokenizer()
        return _written(config, tokenizer, fields["timestamps"].data, tokens, whole=retention == 1)


class Served(Tower, Qwen3VL):
    """The family, bound to vLLM's model."""

    def video_tokens(self, rows: Tensor, clip: Clip, signals: Signals, timestamps: Tensor | None) -> VideoTokens:
        """See `Family.video_tokens`: without the features for layers of the text model."""
        return super().video_tokens(rows[:, : self.model.visual_dim], clip, signals, timestamps)


class _Pruned(QwenModel):
    served = Served

    @property
    def _width(self) -> int:
        return int(self.visual_dim + self.multiscale_dim)

    def _placed(self, rows: Tensor, kept: Tensor, grid: Grid, video_input: Any, number: int) -> Tensor:
        fields = item(
            **{Arg.VIDEO_GRIDS: video_input[Arg.VIDEO_GRIDS][number]}, timestamps=video_input["timestamps"][number]
        )
        tokens = torch.bincount(kept // (grid.height * grid.width), minlength=grid.frames).tolist()
        ids = self._text(fields, tokens)
        whole = torch.tensor(self._unpruned(ids.tolist(), grid))
        visual, all_visual = ids == self.config.video_token_id, whole == self.config.video_token_id
        placed = rows.new_zeros(len(ids), self._width)
        placed[:, : self.visual_dim] = self.get_language_model().embed_input_ids(ids.to(rows.device))
        placed[visual.to(rows.device)] = rows
        alone = self._alone(whole.tolist(), fields)
        offsets = alone.new_empty(3, len(ids))
        offsets[:, visual] = alone[:, all_visual][:, kept.cpu()]
        offsets[:, ~visual] = alone[:, ~all_visual]
        # In the prompt the first step has all tokens, behind its time and its bracket.
        lead = ids.tolist().index(self.config.vision_start_token_id) + 1
        return positions.attached(placed, offsets, lead)

    def _text(self, fields: Any, tokens: list[int]) -> Tensor:
        return torch.tensor(_written(self.config, self._tokenizer, fields["timestamps"].data, tokens, whole=True).full)

    def _unpruned(self, ids: list[int], grid: Grid) -> list[int]:
        whole: list[int] = []
        for token in ids:
            if token != self.config.video_token_id:
                whole.append(token)
            if token == self.config.vision_start_token_id:
                whole += [self.config.video_token_id] * (grid.height * grid.width)
        return whole


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=stock.Qwen3VLDummyInputsBuilder)
class TangoQwen3VL(_Pruned, stock.Qwen3VLForConditionalGeneration):
    """The stock model; where options name a retention, its videos are pruned behind the tower."""


@MULTIMODAL_REGISTRY.register_processor(Processor, info=MoeInfo, dummy_inputs=stock.Qwen3VLDummyInputsBuilder)
class TangoQwen3VLMoe(_Pruned, stock_moe.Qwen3VLMoeForConditionalGeneration):
    """The stock mixture of experts, likewise."""


# vLLM tells models apart by the names of their classes here and there.
TangoQwen3VL.__name__ = stock.Qwen3VLForConditionalGeneration.__name__
TangoQwen3VLMoe.__name__ = stock_moe.Qwen3VLMoeForConditionalGeneration.__name__
