"""MiniCPM-V 4.7: as 4.6, with M-RoPE positions of tokens and marks of a frame."""

from ..registry import register_family
from .common.part import Part
from .minicpmv4_6 import MarkedFrames, MiniCPMV46


class FramesWithoutNumber(MarkedFrames):
    """Videos have no numbers."""

    numbered = False


@register_family("MiniCPMV4_7ForConditionalGeneration")
class MiniCPMV47(MiniCPMV46):
    """`MiniCPMV4_7ForConditionalGeneration`."""

    name = "minicpm-v-4.7"
    checkpoints = ("openbmb/MiniCPM-V-4.7-1B",)
    keeps_positions = True
    prompt = Part(FramesWithoutNumber)
