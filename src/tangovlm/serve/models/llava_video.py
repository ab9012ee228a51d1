"""LLaVA-Video on vLLM with pruned videos: LLaVA-OneVision with a newline after every row of the grid.

vLLM sizes a prompt before it encodes a video, so the number of newlines may not depend on which tokens are kept: those
of all rows remain (`newlines` is "all").
"""

from typing import Any, ClassVar

import torch
from torch import Tensor

from ...models.common.layout import FeatureLayout, Grid
from ...models.common.part import Part
from ...models.common.saliency import pool_means
from ...models.common.transformers_compat import Arg
from ...models.llava_video import LlavaVideo, MeanPooledSignals, NewlineAfterRow
from ...tokens import Selection
from .. import compatibility
from .llava_onevision import Info, Processor, TangoLlavaOnevision
from .siglip_tower import ServedLlavaOnevision, ServedSignals

with compatibility.importing_vllm():
    from vllm.model_executor.models.llava_onevision import LlavaOnevisionDummyInputsBuilder
    from vllm.multimodal import MULTIMODAL_REGISTRY


class VideoInfo(Info):
    """The processing info of LLaVA-OneVision, with the numbers of this grid."""

    @property
    def _side(self) -> int:
        vision = self.get_hf_config().vision_config
        return int(vision.image_size) // int(vision.patch_size) // 2

    def _get_num_frame_tokens(self, *, image_width: int, image_height: int) -> int:
        del image_width, image_height
        return self._side**2

    def get_num_video_tokens(self, *, image_width: int, image_height: int, num_frames: int) -> int:
        """Number of features of an unpruned video, newlines included."""
        del image_width, image_height
        return num_frames * self._side * (self._side + 1)

    def newlines(self, frames: int) -> int:
        """See `Info.newlines`: one for each row."""
        return frames * self._side

    def dropped(self, length: int, retention: float) -> int:
        """See `Info.dropped`."""
        frames = int((length + 0.5) / (retention * self._side**2 + self._side))
        return frames * self._side * (self._side + 1) - length


class AllNewlines(NewlineAfterRow):
    """The newlines of all rows remain."""

    def kept_features(self, selection: Selection, grid: Grid) -> Tensor:
        """See `FeatureLayout.kept_features`."""
        return FeatureLayout.kept_features(self, selection, grid)


class ServedMeanPooledSignals(ServedSignals, MeanPooledSignals):
    """Signals of the tower as vLLM builds it, averaged as the features are."""


class ServedLlavaVideo(ServedLlavaOnevision, LlavaVideo):
    """The family, bound to the model of vLLM."""

    layout = Part(AllNewlines)
    signals = Part(ServedMeanPooledSignals)


@MULTIMODAL_REGISTRY.register_processor(Processor, info=VideoInfo, dummy_inputs=LlavaOnevisionDummyInputsBuilder)
class TangoLlavaVideo(TangoLlavaOnevision):
    """LLaVA-Video, whose videos are pruned after the tower if the options request it."""

    family_class: ClassVar[type[ServedLlavaOnevision]] = ServedLlavaVideo

    def apply_pooling(self, image_features: Tensor, stride: int = 2) -> Tensor:
        """Projected patches ``(F, side * side, D)`` as rows with their newlines: ``(F, H * (W + 1), D)``."""
        means = pool_means(image_features, self._family.side, stride)
        newline = self.image_newline.to(means).expand(*means.shape[:2], 1, -1)
        return torch.cat([means, newline], dim=2).flatten(1, 2)

    @property
    def _closing(self) -> Tensor:
        nothing: Tensor = self.image_newline[None][:0]
        return nothing

    def _process_video_pixels(self, inputs: Any) -> Any:
        if self._videos:
            return super()._process_video_pixels(inputs)
        return [self.all_features(pixels) for pixels in inputs[Arg.VIDEO_PIXELS]]


TangoLlavaVideo.__name__ = "LlavaVideoForConditionalGeneration"
