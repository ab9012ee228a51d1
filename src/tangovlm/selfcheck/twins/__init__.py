"""A tiny random model of every family, and a reference without hooks or cache.

The tests use them, and so do `tangovlm doctor` and the check of `attach` on an untested release of transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .common.base import Twin


class Entry(NamedTuple):
    """A twin, its family and its module, without importing it, which would import transformers."""

    family: str
    architecture: str
    """Name of the model's class."""
    module: str
    cls: str
    since: str = ""
    """The oldest release of transformers that has the class; "" for all supported ones."""


TWINS: Mapping[str, Entry] = {
    "gemma4": Entry("gemma-4", "Gemma4ForConditionalGeneration", "gemma4", "Gemma4Twin"),
    "gemma4_moe": Entry("gemma-4", "Gemma4ForConditionalGeneration", "gemma4", "Gemma4MoeTwin"),
    "glm4v": Entry("glm-4v", "Glm4vForConditionalGeneration", "glm4v", "Glm4vTwin"),
    "glm4v_moe": Entry("glm-4v", "Glm4vMoeForConditionalGeneration", "glm4v", "Glm4vMoeTwin"),
    "glm46v": Entry("glm-4v", "Glm46VForConditionalGeneration", "glm4v", "Glm46VTwin"),
    "internvl": Entry("internvl", "InternVLForConditionalGeneration", "internvl", "InternVLTwin"),
    "internvl_3_5": Entry("internvl", "InternVLForConditionalGeneration", "internvl_3_5", "InternVL35Twin"),
    "llava_next_video": Entry(
        "llava-next-video", "LlavaNextVideoForConditionalGeneration", "llava_next_video", "LlavaNextVideoTwin"
    ),
    "llava_onevision": Entry(
        "llava-onevision", "LlavaOnevisionForConditionalGeneration", "llava_onevision", "LlavaOnevisionTwin"
    ),
    "llava_video": Entry("llava-video", "LlavaVideoForConditionalGeneration", "llava_video", "LlavaVideoTwin"),
    "minicpmv4_6": Entry("minicpm-v-4.6", "MiniCPMV4_6ForConditionalGeneration", "minicpmv4_6", "MiniCPMV46Twin"),
    "minicpmv4_7": Entry(
        "minicpm-v-4.7", "MiniCPMV4_7ForConditionalGeneration", "minicpmv4_7", "MiniCPMV47Twin", "5.18"
    ),
    "qwen2_5_omni": Entry(
        "qwen2.5-omni", "Qwen2_5OmniThinkerForConditionalGeneration", "qwen2_5_omni", "Qwen25OmniTwin", "5.21"
    ),
    "qwen2_5_vl": Entry("qwen2.5-vl", "Qwen2_5_VLForConditionalGeneration", "qwen2_5_vl", "Qwen25VLTwin"),
    "qwen2_vl": Entry("qwen2-vl", "Qwen2VLForConditionalGeneration", "qwen2_vl", "Qwen2VLTwin"),
    "qwen3_omni": Entry(
        "qwen3-omni", "Qwen3OmniMoeThinkerForConditionalGeneration", "qwen3_omni", "Qwen3OmniTwin", "5.21"
    ),
    "qwen3_5": Entry("qwen3.5", "Qwen3_5ForConditionalGeneration", "qwen3_5", "Qwen35Twin"),
    "qwen3_5_moe": Entry("qwen3.5", "Qwen3_5MoeForConditionalGeneration", "qwen3_5", "Qwen35MoeTwin"),
    "qwen3_vl": Entry("qwen3-vl", "Qwen3VLForConditionalGeneration", "qwen3_vl", "Qwen3VLTwin"),
    "qwen3_vl_moe": Entry("qwen3-vl", "Qwen3VLMoeForConditionalGeneration", "qwen3_vl", "Qwen3VLMoeTwin"),
    "smolvlm": Entry("smolvlm2", "SmolVLMForConditionalGeneration", "smolvlm", "SmolVLMTwin"),
    "video_llava": Entry("video-llava", "VideoLlavaForConditionalGeneration", "video_llava", "VideoLlavaTwin"),
    "video_llama_3": Entry("videollama3", "VideoLlama3ForConditionalGeneration", "video_llama_3", "VideoLlama3Twin"),
}
"""Every registered model class has at least one, and two if its text models differ."""


def load(name: str) -> type[Twin]:
    """Import the class of a twin."""
    entry = TWINS[name]
    twin: type[Twin] = getattr(import_module(f".{entry.module}", __name__), entry.cls)
    return twin


def of_class(model_class: type) -> list[str]:
    """Names of the twins of a model's class, or of its nearest parent that has any."""
    for cls in model_class.__mro__:
        if names := [name for name, entry in TWINS.items() if entry.architecture == cls.__name__]:
            return names
    return []


def available() -> list[str]:
    """Names of the twins whose classes the installed transformers has."""
    installed = _numbers(version("transformers"))
    return [name for name, entry in TWINS.items() if _numbers(entry.since) <= installed]


def twins() -> dict[str, type[Twin]]:
    """All available twins by their names."""
    return {name: load(name) for name in available()}


def _numbers(release: str) -> tuple[int, ...]:
    """The major and minor number of a release."""
    return tuple(int(number) for number in release.split(".")[:2] if number)
