"""Pictures and HTML pages that show which tokens of a video a method kept."""

from .exchange import STAGES, Exchange, heading, is_right, layer_words, percent, stage_ms, token_words
from .files import check_writable, whole_file, write_whole
from .html import html_page
from .picture import draw_picture, png
from .scene import Scene, scene

__all__ = [
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
