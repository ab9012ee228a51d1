"""Pictures and HTML pages that show which tokens of a video a method kept."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .exchange import RETENTIONS, STAGES, Exchange, heading, is_right, layer_words, percent, stage_ms, token_words
from .files import check_writable, whole_file, write_whole

if TYPE_CHECKING:
    from .html import html_page
    from .picture import draw_picture, png
    from .scenes import Scene, scene

__all__ = [
    "RETENTIONS",
    "STAGES",
    "Exchange",
    "Scene",
    "check_writable",
    "draw_picture",
    "heading",
    "html_page",
    "is_right",
    "layer_words",
    "percent",
    "png",
    "scene",
    "stage_ms",
    "token_words",
    "whole_file",
    "write_whole",
]

_MODULES = {"Scene": "scenes", "draw_picture": "picture", "html_page": "html", "png": "picture", "scene": "scenes"}


def __getattr__(name: str) -> Any:
    # Resolved on first use: these modules import torch, which takes seconds.
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
