"""A tiny random model of every family, with what it should answer worked out without hooks and caches.

The tests use them, and so do `tangovlm doctor` and the check of `attach` on an unknown release of
transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .base import Twin

_CLASSES = {
    "glm4v": "Glm4vTwin",
    "internvl": "InternVLTwin",
    "internvl_3_5": "InternVL35Twin",
    "llava_next_video": "LlavaNextVideoTwin",
    "llava_onevision": "LlavaOnevisionTwin",
    "llava_video": "LlavaVideoTwin",
    "qwen2_5_vl": "Qwen25VLTwin",
    "qwen2_vl": "Qwen2VLTwin",
    "qwen3_vl": "Qwen3VLTwin",
    "smolvlm": "SmolVLMTwin",
    "video_llama_3": "VideoLlama3Twin",
}


def twins() -> dict[str, type[Twin]]:
    """The twins by the names of their modules, imported when asked for: `import tangovlm` imports no transformers."""
    return {name: getattr(import_module(f".{name}", __name__), cls) for name, cls in _CLASSES.items()}
