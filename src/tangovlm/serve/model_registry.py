"""The model classes that the plug-in registers in vLLM, as attributes of this module named by architecture.

On an incompatible release of vLLM the attribute is the stock class, which refuses to start with pruning. vLLM imports
the class of a model before it checks any option, and hides an error of that import in its log. So models without
pruning run as usual, and a user who requests pruning gets a one-line message.
"""

from importlib import import_module
from types import SimpleNamespace
from typing import Any, NamedTuple

from ..registry import family_for
from . import compatibility
from .options import ServeOptions


class ServedModel(NamedTuple):
    """A model class that prunes.

    Parameters
    ----------
    module, name: of the class; the module is in `models`.
    stock: module of vLLM that has the stock class, which is named like the architecture.
    base: name of the stock class if it is another one than the architecture's.
    own: whether vLLM does not have the architecture.
    internals: groups of `internals.table.groups` that this class uses, in addition to those that all use.
    """

    module: str
    name: str
    stock: str
    internals: tuple[str, ...]
    base: str = ""
    own: bool = False

    @property
    def groups(self) -> tuple[str, ...]:
        """All groups of internals that a server of this model uses."""
        return ("start-up", "videos", *self.internals)


_QWEN2_5_OMNI = ServedModel(
    "qwen2_5_omni",
    "TangoQwen25Omni",
    "qwen2_5_omni_thinker",
    ("qwen", "qwen-omni", "qwen2.5-omni", "runners"),
    base="Qwen2_5OmniThinkerForConditionalGeneration",
)
SERVED_MODELS = {
    "LlavaOnevisionForConditionalGeneration": ServedModel(
        "llava_onevision", "TangoLlavaOnevision", "llava_onevision", ("llava-onevision",)
    ),
    "LlavaVideoForConditionalGeneration": ServedModel(
        "llava_video",
        "TangoLlavaVideo",
        "llava_onevision",
        ("llava-onevision", "llava-video"),
        base="LlavaOnevisionForConditionalGeneration",
        own=True,
    ),
    "Qwen2_5OmniForConditionalGeneration": _QWEN2_5_OMNI,
    "Qwen2_5OmniModel": _QWEN2_5_OMNI,
    "Qwen2_5_VLForConditionalGeneration": ServedModel(
        "qwen2_5_vl", "TangoQwen25VL", "qwen2_5_vl", ("qwen", "qwen2.5-vl", "runners")
    ),
    "Qwen3_5ForConditionalGeneration": ServedModel(
        "qwen3_5", "TangoQwen35", "qwen3_5", ("qwen", "qwen3-vl", "qwen3.5", "runners")
    ),
    "Qwen3_5MoeForConditionalGeneration": ServedModel(
        "qwen3_5", "TangoQwen35Moe", "qwen3_5", ("qwen", "qwen3-vl", "qwen3.5", "runners")
    ),
    "Qwen3OmniMoeForConditionalGeneration": ServedModel(
        "qwen3_omni",
        "TangoQwen3Omni",
        "qwen3_omni_moe_thinker",
        ("qwen", "qwen-omni", "qwen3-omni", "runners"),
        base="Qwen3OmniMoeThinkerForConditionalGeneration",
    ),
    "Qwen3VLForConditionalGeneration": ServedModel(
        "qwen3_vl", "TangoQwen3VL", "qwen3_vl", ("qwen", "qwen3-vl", "runners")
    ),
    "Qwen3VLMoeForConditionalGeneration": ServedModel(
        "qwen3_vl", "TangoQwen3VLMoe", "qwen3_vl_moe", ("qwen", "qwen3-vl", "runners")
    ),
}
"""Architecture to the class that prunes."""


def described_family(architecture: str, config: Any = None) -> Any:
    """The family of a served model without the model, of any release of transformers: vLLM has classes of its own."""
    family = family_for(architecture)
    return type(family.__name__, (family,), {"since": ""})(SimpleNamespace(config=config))


def __getattr__(architecture: str) -> Any:
    if architecture not in SERVED_MODELS:
        raise AttributeError(f"module {__name__!r} has no attribute {architecture!r}")
    model = SERVED_MODELS[architecture]
    if compatibility.first_problem(*model.groups):
        stock = import_module(f"vllm.model_executor.models.{model.stock}")
        return _without_pruning(getattr(stock, model.base or architecture), model)
    return getattr(import_module(f".models.{model.module}", __package__), model.name)


def _without_pruning(stock: type, model: ServedModel) -> type:
    """The stock class, which refuses to start if pruning is requested, or always if vLLM does not have the model."""

    class WithoutPruning(stock):
        def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
            if model.own or ServeOptions.of(vllm_config.model_config.hf_config) is not None:
                compatibility.require_internals(*model.groups)
            super().__init__(vllm_config=vllm_config, prefix=prefix)

    # vLLM distinguishes models by the names of their classes in some places.
    WithoutPruning.__name__ = stock.__name__
    return WithoutPruning
