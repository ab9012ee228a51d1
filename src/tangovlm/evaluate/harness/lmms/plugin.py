"""What lmms-eval finds through the entry points of its group `lmms_eval.models`: names of models, nothing heavy."""

from typing import Any

_CLASSES = f"{__package__}.lmms_eval"
NAMES = {
    "tango_llava_onevision": "TangoLlavaOnevision",
    "tango_llava_video": "TangoLlavaVideo",
    "tango_qwen2_5_vl": "TangoQwen2VL5",
    "tango_qwen3_vl": "TangoQwen3VL",
}
"""Aliases of the model id `tangovlm`, each with the class that takes checkpoints of one family only."""


def manifests() -> list[Any]:
    """The model id `tangovlm` with its aliases, and each alias once more, so that its class knows what was asked for.

    lmms-eval does not say to a class under which name it was found.
    """
    from lmms_eval.models.registry_v2 import ModelManifest

    whole = ModelManifest("tangovlm", chat_class_path=f"{_CLASSES}.TangoVLM", aliases=tuple(NAMES))
    return [whole, *(ModelManifest(name, chat_class_path=f"{_CLASSES}.{cls}") for name, cls in NAMES.items())]
