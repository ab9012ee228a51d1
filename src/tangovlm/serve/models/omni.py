"""The thinkers of Qwen's Omni models on vLLM with pruned videos; sound beside a video stays whole.

With `use_audio_in_video`, tokens of a video and of its sound take turns in the prompt. How many kept ones precede
which token of the sound is known only after encoding, so such videos are served unpruned only.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from ...budget import count
from ...errors import InputError
from ...models.common.layout import Grid
from ...models.common.transformers_compat import Arg
from .. import compatibility
from ..options import ServeOptions
from . import mrope_positions, video_fields
from .qwen import QwenModel, item
from .qwen_processor import QwenProcessor

with compatibility.importing_vllm():
    from vllm.forward_context import set_forward_context

if TYPE_CHECKING:
    _Stock: TypeAlias = Any
else:
    _Stock = object


class OmniInfo(_Stock):
    """Mix-in for stock processing info: metadata of videos is kept if they are pruned."""

    parser: ClassVar[type]
    """The stock parser, as one that keeps metadata."""

    def get_data_parser(self) -> Any:
        """The parser that keeps metadata if videos are pruned, else the stock parser."""
        if ServeOptions.of(self.ctx.model_config.hf_config) is None:
            return super().get_data_parser()
        return self.parser(
            self.get_hf_config().vision_config.spatial_merge_size,
            target_sr=self.get_feature_extractor().sampling_rate,
            target_channels=self.get_target_channels(),
            video_needs_metadata=True,
            expected_hidden_size=self._get_expected_hidden_size(),
            allow_missing_mm_embeddings=self.allow_missing_mm_embeddings,
        )


class OmniProcessor(QwenProcessor):
    """Mix-in for a stock processor."""

    def _get_hf_mm_inputs(self, mm_items: Any, hf_kwargs: Mapping[str, object]) -> Any:
        inputs = super()._get_hf_mm_inputs(mm_items, hf_kwargs)
        videos = inputs.hf_data.get("videos")
        if self._options is not None and videos:
            inputs.hf_data["videos"] = [frames for frames, _ in videos]
        return inputs

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Mapping[str, object]) -> Any:
        merged = self.info.ctx.get_merged_mm_kwargs(hf_kwargs)
        if self._options is not None and mm_items.get("video") and merged.get(Arg.SOUND_IN_VIDEO):
            retention = self._options.request_retention(merged)
            if retention < 1:
                raise InputError(
                    f"{Arg.SOUND_IN_VIDEO} with retention {retention:g}: which tokens of a pruned video precede those "
                    "of its sound is known only after encoding: send it beside the video, or set tango_retention to 1"
                )
        return super()._apply_hf_processor_main(mm_items, hf_kwargs)

    def _content(self, stock: Callable[[int], Any], videos: Sequence[Any], number: int) -> Any:
        if video_fields.retention_of(videos[number]) == 1:
            # Maybe with its sound.
            return stock(number)
        return super()._content(stock, videos, number)

    def _placeholder(self, _fields: Any, grid: Grid, retention: float) -> list[int]:
        return [self.info.get_hf_config().video_token_id] * count(retention, grid.tokens)


class OmniModel(QwenModel):
    """Mix-in for a stock thinker: prunes videos after the vision encoder."""

    _step_seconds: Any = None

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        # The runners of vLLM look for this attribute.
        self.supports_multimodal_pruning = self._pruning is not None

    def embed_multimodal(self, **kwargs: object) -> Any:
        """See `QwenModel.embed_multimodal`."""
        # Stock code does not pass it on.
        self._step_seconds = kwargs.get(Arg.STEP_SECONDS)
        return super().embed_multimodal(**kwargs)

    def _features(self, pixels: Tensor, thw: Tensor) -> Tensor:
        with set_forward_context(None, self.vllm_config):
            features: Tensor = self.visual(pixels.type(self.visual.dtype), **{Arg.GRIDS: thw[None]})
        return features

    def _place(self, features: Tensor, indices: Tensor, grid: Grid, video_input: Any, number: int) -> Tensor:
        seconds = torch.as_tensor(self._step_seconds[number])
        fields = item(**{Arg.VIDEO_GRIDS: video_input[Arg.VIDEO_GRIDS][number], Arg.STEP_SECONDS: seconds})
        offsets = self._video_positions(self._unpruned_ids([], grid), fields)
        return mrope_positions.append_positions(features, offsets[:, indices.cpu()], lead=0)

    def _unpruned_ids(self, _ids: list[int], grid: Grid) -> list[int]:
        return [self.config.video_token_id] * grid.tokens
