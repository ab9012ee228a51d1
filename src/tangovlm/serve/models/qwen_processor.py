"""Common parts of the processors of the Qwen models on vLLM: placeholders for the kept tokens of a video."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from ...budget import count
from ...inputs import timestamps
from ...models.common.family import Family
from ...models.common.layout import Grid
from ...models.common.transformers_compat import Arg
from .. import compatibility
from ..metrics import count_video
from ..options import ServeOptions, without_ours
from . import video_fields

with compatibility.importing_vllm():
    from vllm.multimodal.parse import VideoProcessorItems

if TYPE_CHECKING:
    _Stock: TypeAlias = Any
else:
    _Stock = object

_UNKNOWN = torch.empty(0, dtype=torch.float64)


def grid_of(fields: Mapping[str, Any], merge: int) -> Grid:
    """Token grid of a processed video."""
    steps, height, width = fields[Arg.VIDEO_GRIDS].data.tolist()
    return Grid(steps, height // merge, width // merge)


class QwenProcessor(_Stock):
    """Mix-in for a stock processor: the placeholder of a video has as many tokens as will be kept."""

    _family: ClassVar[type[Family]]

    @cached_property
    def _options(self) -> ServeOptions | None:
        return ServeOptions.of(self.info.ctx.model_config.hf_config)

    @property
    def _merge(self) -> int:
        return int(self.info.get_hf_config().vision_config.spatial_merge_size)

    def _get_mm_fields_config(self, hf_inputs: Any, hf_processor_mm_kwargs: Mapping[str, object]) -> Any:
        fields = dict(super()._get_mm_fields_config(hf_inputs, without_ours(hf_processor_mm_kwargs)))
        return fields if self._options is None else fields | video_fields.field_configs()

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Mapping[str, object]) -> Any:
        options = self._options
        if options is None:
            return super()._apply_hf_processor_main(mm_items, hf_kwargs)
        retention = options.request_retention(self.info.ctx.get_merged_mm_kwargs(hf_kwargs))
        videos = mm_items.get("video")
        if isinstance(videos, VideoProcessorItems):
            for frames, _ in videos.get_all():
                video_fields.check_frames(len(frames))
        data = super()._apply_hf_processor_main(mm_items, without_ours(hf_kwargs))
        if Arg.VIDEO_PIXELS in data:
            grids, pair = data[Arg.VIDEO_GRIDS], self.info.get_hf_config().vision_config.temporal_patch_size
            seconds = self._seconds(mm_items, data)
            times = timestamps.assign(seconds, grids[:, 0].tolist(), pair, self._family.middle_of_steps)
            data[video_fields.RETENTION] = torch.full((len(grids),), retention, dtype=torch.float64)
            data[video_fields.TIMESTAMPS] = [_UNKNOWN if each is None else each for each in times]
            for steps, tokens in zip(grids[:, 0].tolist(), (grids.prod(dim=1) // self._merge**2).tolist(), strict=True):
                # At the retention of the server vLLM checks it; its warm-up may use a video that is too long.
                if retention < options.retention:
                    most = self.info.ctx.model_config.max_model_len
                    video_fields.check_length(steps * pair, tokens, retention, options.retention, most)
                count_video(tokens, count(retention, tokens))
        return data

    def _seconds(self, mm_items: Any, _data: Any) -> list[Tensor | None]:
        """Times of the frames (or steps) of each video, None if they are unknown.

        Raises
        ------
        InputError: times that are not finite or decrease.
        """
        frame_times = [timestamps.from_metadata(metadata)[0] for _, metadata in mm_items["video"].get_all()]
        return [None if times is None else timestamps.of_frames(times, times.numel()) for times in frame_times]

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, object], out_mm_kwargs: Any
    ) -> Sequence[Any]:
        updates = super()._get_prompt_updates(mm_items, without_ours(hf_processor_mm_kwargs), out_mm_kwargs)
        if self._options is None:
            return updates

        return [
            replace(update, replacement=partial(self._content, update.replacement, out_mm_kwargs["video"]))
            if update.modality == "video" and "video" in out_mm_kwargs
            else update
            for update in updates
        ]

    def _content(self, _stock: Callable[[int], Any], videos: Sequence[Any], number: int) -> Any:
        """What replaces the placeholder of a video, of which stock code would make `_stock`."""
        fields = videos[number]
        return self._placeholder(fields, grid_of(fields, self._merge), video_fields.retention_of(fields))

    def _placeholder(self, fields: Any, grid: Grid, retention: float) -> Any:
        """The tokens of a processed video in the prompt."""
        raise NotImplementedError
