"""Answers questions about video files: decode, prepare the inputs, prune, generate.

The functions `ask` and `load` are `tangovlm.ask` and `tangovlm.load`; in this package these names are modules.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .answer import Answer
    from .encoded.encoded_clip import EncodedClip
    from .load import VideoLLM
    from .processor import Processor

__all__ = ["Answer", "EncodedClip", "Processor", "VideoLLM"]

_MODULES = {"Answer": "answer", "EncodedClip": "encoded.encoded_clip", "Processor": "processor", "VideoLLM": "load"}


def __getattr__(name: str) -> Any:
    # Resolved on first use: these modules import transformers, which takes seconds.
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
