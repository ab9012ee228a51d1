"""Qwen3-VL on vLLM with pruned videos.

In a prompt, each temporal step of a video consists of its time as text and its visual tokens between two brackets. How
many tokens of a step are kept is known only after encoding. So in the prompt all kept tokens are in the first step, and
the model replaces the whole video, its text included, by embeddings in the right order.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor

from ...budget import count
from ...inputs import timestamps
from ...models.common.family import Family
from ...models.common.layout import Clip, Grid
from ...models.common.patch_sequence import PatchSequenceFamily
from ...models.common.signals import Signals
from ...models.common.transformers_compat import Arg
from ...models.qwen3_vl import Qwen3VL
from ...tokens import VideoTokens
from .. import compatibility
from ..options import ServeOptions
from . import mrope_positions
from .qwen import QwenModel, ServedPatchFamily, item
from .qwen_processor import QwenProcessor

with compatibility.importing_vllm():
    from vllm.model_executor.models import qwen3_vl as stock
    from vllm.model_executor.models import qwen3_vl_moe as stock_moe
    from vllm.multimodal import MULTIMODAL_REGISTRY


def _video_replacement(config: Any, tokenizer: Any, times: Any, tokens: list[int], whole: bool) -> Any:
    """Token ids of a video in a prompt, with so many visual tokens in each step; `whole` as without pruning."""
    names = ("vision_start_token_id", "vision_end_token_id", "video_token_id")
    return stock.Qwen3VLMultiModalProcessor.get_video_repl(
        tokens_per_frame=tokens,
        timestamps=times,
        tokenizer=tokenizer,
        select_token_id=whole,
        **{name: getattr(config, name) for name in names},
    )


class _StepTimes(list[float]):
    """Seconds of the steps of a video, as in its prompt, and those of its frames ``(T,)``, of which they are means."""

    def __init__(self, steps: list[float], frames: Tensor) -> None:
        super().__init__(steps)
        self.frames = frames


class FrameTimes:
    """Mix-in for stock processing info: if videos are pruned, keeps the times of frames with those of steps."""

    def _calculate_timestamps(self, indices: Any, video_fps: float, merge_size: int) -> list[float]:
        steps: list[float] = super()._calculate_timestamps(indices, video_fps, merge_size)  # type: ignore[misc]
        if ServeOptions.of(self.get_hf_config()) is None:  # type: ignore[attr-defined]
            return steps
        return _StepTimes(steps, torch.as_tensor(indices, dtype=torch.float64) / video_fps)


class Info(FrameTimes, stock.Qwen3VLProcessingInfo):
    """The stock processing info."""


class MoeInfo(FrameTimes, stock_moe.Qwen3VLMoeProcessingInfo):
    """The stock processing info of the mixture of experts."""


class Processor(QwenProcessor, stock.Qwen3VLMultiModalProcessor):
    """The stock processor, with placeholders for the kept tokens."""

    _family: ClassVar[type[Family]] = Qwen3VL

    def _seconds(self, _mm_items: Any, data: Any) -> list[Tensor | None]:
        frames = [getattr(steps, "frames", None) for steps in data["timestamps"]]
        data["timestamps"] = [list(steps) for steps in data["timestamps"]]
        return [None if times is None else timestamps.of_frames(times, times.numel()) for times in frames]

    def _placeholder(self, fields: Any, grid: Grid, retention: float) -> Any:
        tokens = [grid.height * grid.width] * grid.frames
        if retention < 1:
            tokens = [count(retention, grid.tokens)] + [0] * (grid.frames - 1)
        config, tokenizer = self.info.get_hf_config(), self.info.get_tokenizer()
        return _video_replacement(config, tokenizer, fields["timestamps"].data, tokens, whole=retention == 1)


class ServedQwen3VL(ServedPatchFamily, Qwen3VL):
    """The family, bound to the model of vLLM."""

    def video_tokens(self, rows: Tensor, clip: Clip, signals: Signals, timestamps: Tensor | None) -> VideoTokens:
        """See `Family.video_tokens`; without the features for layers of the text model."""
        return super().video_tokens(rows[:, : self.model.visual_dim], clip, signals, timestamps)


class PrunedQwen3VL(QwenModel):
    """Mix-in for stock models: prunes videos whose steps have their times before them."""

    family_class: ClassVar[type[PatchSequenceFamily]] = ServedQwen3VL

    @property
    def _width(self) -> int:
        return int(self.visual_dim + self.multiscale_dim)

    def _place(self, features: Tensor, indices: Tensor, grid: Grid, video_input: Any, number: int) -> Tensor:
        fields = item(
            **{Arg.VIDEO_GRIDS: video_input[Arg.VIDEO_GRIDS][number]}, timestamps=video_input["timestamps"][number]
        )
        tokens = torch.bincount(indices // (grid.height * grid.width), minlength=grid.frames).tolist()
        ids = self._video_ids(fields, tokens)
        whole = torch.tensor(self._unpruned_ids(ids.tolist(), grid))
        visual, all_visual = ids == self.config.video_token_id, whole == self.config.video_token_id
        placed = features.new_zeros(len(ids), self._width)
        placed[:, : self.visual_dim] = self.get_language_model().embed_input_ids(ids.to(features.device))
        placed[visual.to(features.device)] = features
        positions = self._video_positions(whole.tolist(), fields)
        offsets = positions.new_empty(3, len(ids))
        offsets[:, visual] = positions[:, all_visual][:, indices.cpu()]
        offsets[:, ~visual] = positions[:, ~all_visual]
        # In the prompt the first step has all visual tokens, after its time and its bracket.
        lead = ids.tolist().index(self.config.vision_start_token_id) + 1
        return mrope_positions.append_positions(placed, offsets, lead)

    def _video_ids(self, fields: Any, tokens: list[int]) -> Tensor:
        return torch.tensor(
            _video_replacement(self.config, self._tokenizer, fields["timestamps"].data, tokens, whole=True).full
        )

    def _unpruned_ids(self, ids: list[int], grid: Grid) -> list[int]:
        whole: list[int] = []
        for token in ids:
            if token != self.config.video_token_id:
                whole.append(token)
            if token == self.config.vision_start_token_id:
                whole += [self.config.video_token_id] * (grid.height * grid.width)
        return whole


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=stock.Qwen3VLDummyInputsBuilder)
class TangoQwen3VL(PrunedQwen3VL, stock.Qwen3VLForConditionalGeneration):
    """The stock model, whose videos are pruned after the vision encoder if the options request it."""


@MULTIMODAL_REGISTRY.register_processor(Processor, info=MoeInfo, dummy_inputs=stock.Qwen3VLDummyInputsBuilder)
class TangoQwen3VLMoe(PrunedQwen3VL, stock_moe.Qwen3VLMoeForConditionalGeneration):
    """The stock mixture of experts, whose videos are pruned likewise."""


# vLLM distinguishes models by the names of their classes in some places.
TangoQwen3VL.__name__ = stock.Qwen3VLForConditionalGeneration.__name__
TangoQwen3VLMoe.__name__ = stock_moe.Qwen3VLMoeForConditionalGeneration.__name__
