"""Qwen3.5: prompts and tower as those of Qwen3-VL without DeepStack; most layers of the text model are recurrent."""

from ..registry import register_family
from .qwen3_vl import Qwen3VL


@register_family("Qwen3_5ForConditionalGeneration", "Qwen3_5MoeForConditionalGeneration")
class Qwen35(Qwen3VL):
    """`Qwen3_5ForConditionalGeneration` and its mixture of experts.

    Three of four layers of the text model are gated delta networks, which read the kept tokens one after another and
    keep a state of constant size; the others attend. Methods inside the text model are refused: they read the attention
    of layers, most of which have none.
    """

    name = "qwen3.5"
    checkpoints = (
        "Qwen/Qwen3.5-0.8B",
        "Qwen/Qwen3.5-2B",
        "Qwen/Qwen3.5-4B",
        "Qwen/Qwen3.5-9B",
        "Qwen/Qwen3.5-27B",
        "Qwen/Qwen3.5-35B-A3B",
        "Qwen/Qwen3.5-122B-A10B",
        "Qwen/Qwen3.5-397B-A17B",
        "Qwen/Qwen3.6-35B-A3B",
    )
    # The stock model cannot take back the tokens that an assistant proposed.
    tested = Qwen3VL.tested - {"assisted"}
