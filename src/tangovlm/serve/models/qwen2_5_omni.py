"""Qwen2.5-Omni's thinker on vLLM with pruned videos."""

from typing import ClassVar

from torch import nn

from ...models.common.family import Family
from ...models.qwen2_5_omni import Qwen25Omni
from .. import compatibility
from . import video_fields
from .omni import OmniInfo, OmniModel, OmniProcessor
from .qwen import ServedPatchFamily

with compatibility.importing_vllm():
    from vllm.model_executor.models import qwen2_5_omni_thinker as stock
    from vllm.multimodal import MULTIMODAL_REGISTRY


class ServedQwen25Omni(ServedPatchFamily, Qwen25Omni):
    """The family, bound to the model of vLLM, whose encoder is that of Qwen2.5-VL."""

    @property
    def query_key(self) -> tuple[nn.Module, ...]:
        """See `PatchSequenceFamily.query_key`."""
        return (self.attention.qkv,)


class Parser(video_fields.VideoParser, stock.Qwen2_5OmniThinkerMultiModalDataParser):
    """The stock parser, which accepts videos without metadata."""


class Info(OmniInfo, stock.Qwen2_5OmniThinkerProcessingInfo):
    """The stock processing info."""

    parser = Parser


class Processor(OmniProcessor, stock.Qwen2_5OmniThinkerMultiModalProcessor):
    """The stock processor, with placeholders for the kept tokens."""

    _family: ClassVar[type[Family]] = Qwen25Omni


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=stock.Qwen2_5OmniThinkerDummyInputsBuilder)
class TangoQwen25Omni(OmniModel, stock.Qwen2_5OmniThinkerForConditionalGeneration):
    """The stock thinker, whose videos are pruned after the vision encoder if the options request it."""

    family_class = ServedQwen25Omni

    @property
    def _width(self) -> int:
        return int(self.config.vision_config.out_hidden_size)


# vLLM distinguishes models by the names of their classes in some places.
TangoQwen25Omni.__name__ = stock.Qwen2_5OmniThinkerForConditionalGeneration.__name__
