"""LLaVA-OneVision on vLLM with pruned videos, and what models of its kind have in common.

The processor writes the retention and the timestamps of every video into its fields, and a placeholder of as many
tokens as will be kept. The model reads the retention from the same field, so that the two cannot disagree. With
contiguous positions, kept tokens simply follow each other; `original_positions` has those of the unpruned prompt.
A model with another layout of newlines derives from `Info` and `TangoLlavaOnevision` (`llava_video`).
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...budget import count
from ...errors import InputError
from ...models.common import chunks
from ...models.common.layout import Grid
from ...models.common.transformers_compat import Arg
from .. import compatibility
from ..metrics import count_video
from ..options import ServeOptions, without_ours
from ..rope_config import position_limit
from ..video_pruner import VideoPruner, pruning_options
from . import video_fields
from .original_positions import OriginalPositions
from .siglip_tower import PoolingHead, ServedLlavaOnevision

with compatibility.importing_vllm():
    from vllm.model_executor.models import llava_onevision as stock
    from vllm.multimodal import MULTIMODAL_REGISTRY
    from vllm.multimodal.parse import VideoEmbeddingItems, VideoProcessorItems
    from vllm.multimodal.processing import PromptReplacement

_TOWER = "vision_tower."
_NESTED_TOWER = "vision_tower.vision_model."
_HEAD = "tango_head."
_HEAD_PREFIXES = ("head.", "post_layernorm.")


class Info(stock.LlavaOnevisionProcessingInfo):
    """The stock processing info, and the options of the server."""

    @cached_property
    def options(self) -> ServeOptions | None:
        """How videos are pruned; None if they are not."""
        return ServeOptions.of(self.get_hf_config())

    def newlines(self, _frames: int) -> int:
        """Number of newlines of a video with so many frames, which all remain: one after the video."""
        return 1

    def dropped(self, length: int, retention: float) -> int:
        """The most tokens that can be dropped of a video with a placeholder of this length.

        A cached video no longer has its number of frames.
        """
        kept = length - 1
        return int((kept + 0.5) / retention) - kept

    @property
    def original_positions(self) -> bool:
        """Whether tokens have the positions of the unpruned prompt."""
        return bool(self.ctx.model_config.uses_mrope)

    def get_data_parser(self) -> Any:
        """The parser that keeps metadata if videos are pruned, else the stock parser."""
        if self.options is None:
            return super().get_data_parser()
        return video_fields.VideoParser(
            video_needs_metadata=True,
            expected_hidden_size=self._get_expected_hidden_size(),
            allow_missing_mm_embeddings=self.allow_missing_mm_embeddings,
        )


class Processor(stock.LlavaOnevisionMultiModalProcessor):
    """The stock processor, with a placeholder of as many tokens as will be kept of a video."""

    def _get_mm_fields_config(self, hf_inputs: Any, hf_processor_mm_kwargs: Mapping[str, object]) -> Any:
        fields = dict(super()._get_mm_fields_config(hf_inputs, hf_processor_mm_kwargs))
        return fields if self.info.options is None else fields | video_fields.field_configs()

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Mapping[str, object]) -> Any:
        options = self.info.options
        if options is None:
            return super()._apply_hf_processor_main(mm_items, hf_kwargs)
        retention = options.request_retention(self.info.ctx.get_merged_mm_kwargs(hf_kwargs))
        self._check_lengths(mm_items.get("video"), retention, options.retention)
        data = super()._apply_hf_processor_main(mm_items, without_ours(hf_kwargs))
        for pixels in (*data.get(Arg.VIDEO_PIXELS, ()), *data.get(Arg.PIXELS, ())):
            self._check_size(pixels)
        if (metadata := data.get(video_fields.TIMESTAMPS)) is not None:
            frames = [len(pixels) for pixels in data[Arg.VIDEO_PIXELS]]
            data[video_fields.RETENTION] = torch.full((len(frames),), retention, dtype=torch.float64)
            data[video_fields.TIMESTAMPS] = [
                video_fields.frame_seconds(*each) for each in zip(metadata, frames, strict=True)
            ]
            if self.info.original_positions:
                data[video_fields.FEATURES] = torch.tensor(
                    [self._frame_tokens * number + self.info.newlines(number) for number in frames]
                )
            for number in frames:
                count_video(self._frame_tokens * number, count(retention, self._frame_tokens * number))
        return data

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        """Process the media of a request, and check that vLLM can rotate by the positions of the unpruned prompt.

        Raises
        ------
        InputError: it cannot; an error in the model would end vLLM's engine.
        """
        result = super().apply(inputs, timing_ctx)
        videos = result["mm_placeholders"].get("video", ())
        if self.info.options is not None and self.info.original_positions and videos:
            kwargs = self.info.ctx.get_merged_mm_kwargs(inputs.hf_processor_mm_kwargs)
            retention = self.info.options.request_retention(kwargs)
            self._check_positions([video.length for video in videos], retention)
        return result

    def _check_positions(self, lengths: Sequence[int], retention: float) -> None:
        """Check the positions of a prompt with placeholders of such lengths."""
        config = self.info.ctx.model_config
        limit = position_limit(config.hf_text_config)
        dropped = sum(self.info.dropped(length, retention) for length in lengths)
        if retention < 1 and config.max_model_len + dropped > limit:
            raise InputError(
                f"videos of which pruning drops {dropped} tokens need positions above {limit - 1}, which vLLM does not "
                "have for this model: send or sample fewer frames, or serve with positions 'contiguous'"
            )

    def _get_hf_mm_inputs(self, mm_items: Any, hf_kwargs: Mapping[str, object]) -> Any:
        inputs = super()._get_hf_mm_inputs(mm_items, hf_kwargs)
        videos = inputs.hf_data.get("videos")
        if self.info.options is not None and videos:
            inputs.hf_data["videos"] = [frames for frames, _ in videos]
            inputs.passthrough_data[video_fields.TIMESTAMPS] = [metadata for _, metadata in videos]
        return inputs

    def _check_lengths(self, videos: Any, retention: float, own: float) -> None:
        """See `video_fields.check_length`; for the videos of a request that are not embeddings already."""
        if not isinstance(videos, VideoProcessorItems):
            return
        most = self.info.ctx.model_config.max_model_len
        for frames, _ in videos.get_all():
            video_fields.check_frames(len(frames))
            video_fields.check_length(len(frames), self._frame_tokens * len(frames), retention, own, most)

    def _check_size(self, pixels: Tensor) -> None:
        """Check that the tower accepts the size of frames; an error in the tower would end vLLM's engine."""
        *_, height, width = pixels.shape
        if (height, width) != (self._side, self._side):
            raise InputError(
                f"mm_processor_kwargs results in frames of {height} x {width} pixels, but the model accepts "
                f"{self._side} x {self._side}: leave size and do_resize out"
            )

    @property
    def _side(self) -> int:
        side: int = self.info.get_hf_config().vision_config.image_size
        return side

    @property
    def _frame_tokens(self) -> int:
        return int(self.info._get_num_frame_tokens(image_width=self._side, image_height=self._side))

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, object], out_mm_kwargs: Any
    ) -> Sequence[Any]:
        kwargs = without_ours(hf_processor_mm_kwargs)
        updates = super()._get_prompt_updates(mm_items, kwargs, out_mm_kwargs)
        if self.info.options is None or isinstance(mm_items.get("video"), VideoEmbeddingItems):
            return updates
        placeholder = self.info.get_hf_config().video_token_index

        def replacement(item: int) -> list[int]:
            fields = out_mm_kwargs["video"][item]
            frames = len(fields[Arg.VIDEO_PIXELS].data)
            kept = count(float(fields[video_fields.RETENTION].data), self._frame_tokens * frames)
            return [placeholder] * (kept + self.info.newlines(frames))

        others = [update for update in updates if update.modality != "video"]
        return [*others, PromptReplacement(modality="video", target=[placeholder], replacement=replacement)]


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=stock.LlavaOnevisionDummyInputsBuilder)
class TangoLlavaOnevision(OriginalPositions, stock.LlavaOnevisionForConditionalGeneration):
    """The stock model, whose videos are pruned after the tower if the options request it.

    Raises
    ------
    ModelError: a tower that does not provide the signals of the method.
    """

    family_class: ClassVar[type[ServedLlavaOnevision]] = ServedLlavaOnevision
    """The family, bound to the model of vLLM."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        options = pruning_options(vllm_config)
        self._family = self.family_class(self, head_weights=None if options is None else options.head_weights)
        self._pruning = None if options is None else VideoPruner(self._family, options)
        self._videos: dict[str, Any] = {}
        self._has_head = True
        if self._pruning is None:
            return
        # vLLM limits what it encodes at a time by the number of pruned tokens, which would be too many videos.
        self.requires_sequential_video_encoding = True
        self._family.check_tower()
        if vllm_config.model_config.uses_mrope:
            layers, text = self.language_model.model.layers, self.config.text_config
            self.recompute_positions(layers, text, self.config.video_token_index)
        if self._family.signals.needs_head(self._pruning.needs, self._pruning.kind):
            self._has_head = False
            self.tango_head = PoolingHead(self.config.vision_config)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load the stock weights, also under the newer names of transformers, and those of the pooling head.

        The head is that of the checkpoint unless the options name another; see `LlavaOnevision.head` for the errors if
        there is none.
        """
        loaded: set[str] = super().load_weights(self._rename(weights))
        if not self._has_head:
            loaded |= {_HEAD + name for name in self.tango_head.copy_weights(self._family.find_head())}
            self._has_head = True
        self._family.forget_head()
        return loaded

    def _rename(self, weights: Iterable[tuple[str, Tensor]]) -> Iterable[tuple[str, Tensor]]:
        own = not self._has_head and self._family.head_weights is None
        for name, weight in weights:
            before, tower, part = name.partition(_TOWER)
            part = part.removeprefix("vision_model.")
            if own and tower and part.startswith(_HEAD_PREFIXES):
                self._has_head = True
                yield _HEAD + part, weight
            yield (before + _NESTED_TOWER + part if tower else name), weight

    def embed_multimodal(self, **kwargs: object) -> Any:
        """The stock embeddings of images, and those of each video, see `OriginalPositions.place`."""
        names = (video_fields.RETENTION, video_fields.TIMESTAMPS, video_fields.FEATURES)
        self._videos = {name: kwargs.pop(name) for name in names if name in kwargs}
        try:
            return super().embed_multimodal(**kwargs)
        finally:
            self._videos = {}

    def _process_video_pixels(self, inputs: Any) -> Any:
        if self._pruning is None or video_fields.RETENTION not in self._videos:
            return super()._process_video_pixels(inputs)
        retentions, seconds = self._videos[video_fields.RETENTION], self._videos[video_fields.TIMESTAMPS]
        videos = zip(inputs[Arg.VIDEO_PIXELS], retentions, seconds, strict=True)
        return [self._embed_video(pixels, float(retention), times) for pixels, retention, times in videos]

    def _embed_video(self, pixels: Tensor, retention: float, seconds: Tensor) -> Tensor:
        if retention == 1:
            return self.all_features(pixels)
        assert self._pruning is not None
        layout, grid = self._family.layout, self._family.layout.grid(len(pixels))
        times = video_fields.usable_seconds(seconds)
        selection, features = self._pruning(lambda: self._encode(pixels), grid, retention, times)
        on_grid = torch.arange(len(features), device=features.device)[layout.grid_indices(grid)]
        features[on_grid[selection.indices]] = selection.features
        (kept,) = layout.kept_features(selection, grid).nonzero(as_tuple=True)
        return self.place(features[kept], kept)

    def all_features(self, pixels: Tensor) -> Tensor:
        """Features ``(R, D)`` of an unpruned video, newlines included."""
        features = self._video_pixels_to_features(self.vision_tower, pixels).flatten(0, 1)
        return torch.cat([features, self._closing])

    @property
    def _closing(self) -> Tensor:
        """What follows a video."""
        newline: Tensor = self.image_newline[None]
        return newline

    def _encode(self, pixels: Tensor) -> Tensor:
        """As `all_features`, computed in chunks of frames to bound the working memory."""
        grids: list[Grid] = [self._family.layout.grid(len(pixels))]
        at_once = chunks.frames_at_once(self._family.encoding.frame_bytes(grids), self._family.device)
        parts = [self._video_pixels_to_features(self.vision_tower, part) for part in torch.split(pixels, at_once)]
        return torch.cat([*(part.flatten(0, 1) for part in parts), self._closing])


# vLLM distinguishes models by the names of their classes in some places.
TangoLlavaOnevision.__name__ = stock.LlavaOnevisionForConditionalGeneration.__name__
