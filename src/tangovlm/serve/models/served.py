"""The classes that vLLM is told of: those that prune, or the stock ones on a release of vLLM that ours cannot stand on.

vLLM imports the class of a model before it asks anybody about the options, and would hide an error there in its log. So
a release that is not as it should be costs only who asks for pruning, and that in one line.
"""

from importlib import import_module
from typing import Any, NamedTuple

from .. import compat
from ..options import ServeOptions


class Model(NamedTuple):
    """A class that prunes.

    Parameters
    ----------
    module, name: of ours.
    stock: the module of vLLM with the class whose place it takes, which has the name of the architecture.
    seams: groups of `seams.groups` that it builds on, beside those of all.
    """

    module: str
    name: str
    stock: str
    seams: tuple[str, ...]

    @property
    def groups(self) -> tuple[str, ...]:
        """All that a server of this model builds on."""
        return ("start-up", "videos", *self.seams)


MODELS = {
    "LlavaOnevisionForConditionalGeneration": Model(
        "llava_onevision", "TangoLlavaOnevision", "llava_onevision", ("llava-onevision",)
    ),
    "Qwen2_5_VLForConditionalGeneration": Model(
        "qwen2_5_vl", "TangoQwen25VL", "qwen2_5_vl", ("qwen", "qwen2.5-vl", "runners")
    ),
    "Qwen3VLForConditionalGeneration": Model("qwen3_vl", "TangoQwen3VL", "qwen3_vl", ("qwen", "qwen3-vl", "runners")),
    "Qwen3VLMoeForConditionalGeneration": Model(
        "qwen3_vl", "TangoQwen3VLMoe", "qwen3_vl_moe", ("qwen", "qwen3-vl", "runners")
    ),
}
"""Architectures that are served."""


def __getattr__(architecture: str) -> Any:
    if architecture not in MODELS:
        raise AttributeError(f"module {__name__!r} has no attribute {architecture!r}")
    model = MODELS[architecture]
    if compat.first_problem(*model.groups):
        return _whole(getattr(import_module(f"vllm.model_executor.models.{model.stock}"), architecture), model)
    return getattr(import_module(f".{model.module}", __package__), model.name)


def _whole(stock: type, model: Model) -> type:
    """A stock class that no server gets that was told to prune."""

    class Whole(stock):
        def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
            if ServeOptions.of(vllm_config.model_config.hf_config) is not None:
                compat.require_seams(*model.groups)
            super().__init__(vllm_config=vllm_config, prefix=prefix)

    # vLLM tells models apart by the names of their classes here and there.
    Whole.__name__ = stock.__name__
    return Whole
