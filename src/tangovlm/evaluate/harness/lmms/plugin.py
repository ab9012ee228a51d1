"""The entry point in lmms-eval's group `lmms_eval.models`: names of models, without heavy imports."""

from typing import Any

_MODULE = f"{__package__}.model"
NAMES = {
    "tango_llava_onevision": "TangoLlavaOnevision",
    "tango_llava_video": "TangoLlavaVideo",
    "tango_qwen2_5_vl": "TangoQwen2VL5",
    "tango_qwen3_vl": "TangoQwen3VL",
}
"""Aliases of the model id `tangovlm`, each with a class that accepts checkpoints of one family only."""


def manifests() -> list[Any]:
    """The model id `tangovlm` with its aliases, and a separate model for each alias.

    lmms-eval does not pass the requested name to a class, so each alias needs a class of its own.
    """
    from lmms_eval.models.registry_v2 import ModelManifest

    general = ModelManifest("tangovlm", chat_class_path=f"{_MODULE}.TangoVLM", aliases=tuple(NAMES))
    return [general, *(ModelManifest(name, chat_class_path=f"{_MODULE}.{cls}") for name, cls in NAMES.items())]
