"""InternVL 3.5 under test."""

from typing import Any

from transformers import Qwen3Config

from .common.weights import text_config
from .internvl import InternVLTwin


class InternVL35Twin(InternVLTwin):
    """As InternVL 3, with a text model that normalises its queries and keys."""

    def language(self, layers: int) -> Any:
        return Qwen3Config(**text_config(layers), head_dim=16)
