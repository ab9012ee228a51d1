"""Qwen3.5 on vLLM with pruned videos: as Qwen3-VL, without features for layers of the text model."""

from ...models.qwen3_5 import Qwen35
from .. import compatibility
from .qwen import ServedPatchFamily
from .qwen3_vl import FrameTimes, Processor, PrunedQwen3VL

with compatibility.importing_vllm():
    from vllm.model_executor.models import qwen3_5 as stock
    from vllm.model_executor.models.qwen3_vl import Qwen3VLDummyInputsBuilder
    from vllm.multimodal import MULTIMODAL_REGISTRY


class Info(FrameTimes, stock.Qwen3_5ProcessingInfo):
    """The stock processing info."""


class MoeInfo(FrameTimes, stock.Qwen3_5MoeProcessingInfo):
    """The stock processing info of the mixture of experts."""


class ServedQwen35(ServedPatchFamily, Qwen35):
    """The family, bound to the model of vLLM."""


class Qwen35Processor(Processor):
    """The stock processor, with placeholders for the kept tokens."""

    _family = Qwen35


@MULTIMODAL_REGISTRY.register_processor(Qwen35Processor, info=Info, dummy_inputs=Qwen3VLDummyInputsBuilder)
class TangoQwen35(PrunedQwen3VL, stock.Qwen3_5ForConditionalGeneration):
    """The stock model, whose videos are pruned after the vision encoder if the options request it."""

    family_class = ServedQwen35


@MULTIMODAL_REGISTRY.register_processor(Qwen35Processor, info=MoeInfo, dummy_inputs=Qwen3VLDummyInputsBuilder)
class TangoQwen35Moe(PrunedQwen3VL, stock.Qwen3_5MoeForConditionalGeneration):
    """The stock mixture of experts, whose videos are pruned likewise."""

    family_class = ServedQwen35


# vLLM distinguishes models by the names of their classes in some places.
TangoQwen35.__name__ = stock.Qwen3_5ForConditionalGeneration.__name__
TangoQwen35Moe.__name__ = stock.Qwen3_5MoeForConditionalGeneration.__name__
