"""MiniCPM-V 4.7: as 4.6, with M-RoPE positions of tokens and marks of a frame."""

from ..registry import register_family
from .common.part import Part
from .minicpmv4_6 import FrameRuns, MarkedFrames, MiniCPMV46


class FramesWithoutNumber(MarkedFrames):
    """Videos have no numbers."""

    numbered = False


class FramesOnCanvas(FrameRuns):
    """The mark behind a frame has a position beside it."""

    # The position of the mark behind the last frame follows from the frame, not from the text before it.
    closing_tokens = 1


@register_family("MiniCPMV4_7ForConditionalGeneration")
class MiniCPMV47(MiniCPMV46):
    """`MiniCPMV4_7ForConditionalGeneration`."""

    name = "minicpm-v-4.7"
    since = "5.18"
    checkpoints = ("openbmb/MiniCPM-V-4.7-1B",)
    keeps_positions = True
    prompt = Part(FramesWithoutNumber)
    layout = Part(FramesOnCanvas)
