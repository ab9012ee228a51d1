"""Qwen3-Omni's thinker on vLLM with pruned videos."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from ...models.common.family import Family
from ...models.common.layout import Clip
from ...models.common.patch_sequence import PatchSequenceFamily
from ...models.common.signals import Signals
from ...models.qwen3_omni import Qwen3Omni
from ...tokens import VideoTokens
from .. import compatibility
from . import video_fields
from .omni import OmniInfo, OmniModel, OmniProcessor
from .qwen import ServedPatchFamily

with compatibility.importing_vllm():
    from vllm.model_executor.models import qwen3_omni_moe_thinker as stock
    from vllm.multimodal import MULTIMODAL_REGISTRY


class ServedQwen3Omni(ServedPatchFamily, Qwen3Omni):
    """The family, bound to the model of vLLM."""

    query_key = PatchSequenceFamily.query_key

    def video_tokens(self, rows: Tensor, clip: Clip, signals: Signals, timestamps: Tensor | None) -> VideoTokens:
        """See `Family.video_tokens`; without the features for layers of the text model."""
        return super().video_tokens(rows[:, : self.model.visual_dim], clip, signals, timestamps)


class Parser(video_fields.VideoParser, stock.Qwen3OmniMoeThinkerMultiModalDataParser):
    """The stock parser, which accepts videos without metadata."""


class Info(OmniInfo, stock.Qwen3OmniMoeThinkerProcessingInfo):
    """The stock processing info."""

    parser = Parser


class Processor(OmniProcessor, stock.Qwen3OmniMoeThinkerMultiModalProcessor):
    """The stock processor, with placeholders for the kept tokens."""

    _family: ClassVar[type[Family]] = Qwen3Omni


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=stock.Qwen3OmniMoeThinkerDummyInputsBuilder)
class TangoQwen3Omni(OmniModel, stock.Qwen3OmniMoeThinkerForConditionalGeneration):
    """The stock thinker, whose videos are pruned after the vision encoder if the options request it."""

    family_class = ServedQwen3Omni

    @property
    def _width(self) -> int:
        return int(self.visual_dim + self.multiscale_dim)

    def _video_positions(self, ids: list[int], fields: Mapping[str, Any]) -> Tensor:
        # Stock code counts the token after a video together with it.
        return super()._video_positions([*ids, self.config.vision_end_token_id], fields)[:, :-1]


# vLLM distinguishes models by the names of their classes in some places.
TangoQwen3Omni.__name__ = stock.Qwen3OmniMoeThinkerForConditionalGeneration.__name__
