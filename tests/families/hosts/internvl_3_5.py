"""InternVL 3.5 under test."""

from typing import Any

from transformers import Qwen3Config

from tests.families.host import text_config
from tests.families.hosts.internvl import Under as InternVL


class Under(InternVL):
    """As InternVL 3, with a text model that norms its queries and keys."""

    def language(self, layers: int) -> Any:
        return Qwen3Config(**text_config(layers), head_dim=16)
