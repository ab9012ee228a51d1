"""Qwen3-Omni's thinker: the tower and the text model of Qwen3-VL, with sound beside or inside videos."""

from typing import ClassVar

from ..inputs.frame_size import SizeRule
from ..registry import register_family
from .common.patch_sequence import PatchSequenceFamily
from .qwen2_5_omni import Thinker


@register_family("Qwen3OmniMoeThinkerForConditionalGeneration")
class Qwen3Omni(Thinker):
    """`Qwen3OmniMoeThinkerForConditionalGeneration`: as Qwen2.5-Omni, with times that are not rounded.

    DeepStack features are those of Qwen3-VL, and methods inside the text model are refused for the same reason.
    """

    name = "qwen3-omni"
    checkpoints = ("Qwen/Qwen3-Omni-30B-A3B-Instruct", "Qwen/Qwen3-Omni-30B-A3B-Thinking")
    tested = PatchSequenceFamily.tested - {"pruning inside"}
    wholes: ClassVar = {"Qwen3OmniMoeForConditionalGeneration": "thinker"}
    thinker_class = "Qwen3OmniMoeThinkerForConditionalGeneration"
    thinker_config_class = "Qwen3OmniMoeThinkerConfig"
    size_rule = SizeRule(128 * 32 * 32, 768 * 32 * 32, cap_tokens=128_000)
