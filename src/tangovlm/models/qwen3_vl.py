"""Qwen3-VL: time is text in front of every step, and layers of the tower are added to the first of the text model."""

from typing import Any

from ..inputs.frame_size import SizeRule
from ..inputs.pixels import PixelSpec
from ..inputs.timestamps import assign
from ..registry import register_family
from .common.patch_sequence import PatchSequenceFamily
from .common.prompt_format import VideoInput

_START, _END = "<|vision_start|>", "<|vision_end|>"


@register_family("Qwen3VLForConditionalGeneration", "Qwen3VLMoeForConditionalGeneration")
class Qwen3VL(PatchSequenceFamily):
    """`Qwen3VLForConditionalGeneration` and its mixture of experts.

    A kept token takes its own DeepStack features along, those of tokens that were merged into it are dropped. Methods
    inside the text model are refused, as its first layers are handed these features for all tokens that entered it.
    """

    name = "qwen3-vl"
    checkpoints = (
        "Qwen/Qwen3-VL-2B-Instruct",
        "Qwen/Qwen3-VL-4B-Instruct",
        "Qwen/Qwen3-VL-8B-Instruct",
        "Qwen/Qwen3-VL-32B-Instruct",
        "Qwen/Qwen3-VL-30B-A3B-Instruct",
        "Qwen/Qwen3-VL-235B-A22B-Instruct",
    )
    tested = PatchSequenceFamily.tested - {"pruning inside"}
    default_frames = 32
    keeps_positions = True
    middle_of_steps = True
    pixel_spec = PixelSpec(size=(0, 0), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    size_rule = SizeRule(128 * 32 * 32, 768 * 32 * 32, of="video", cap_tokens=768)

    def render_video(self, tokenizer: Any, video: VideoInput) -> str:
        """See `PromptFormat.render_video`: each step has its time and its own brackets."""
        grid = self.packed(video.pixels)[2]
        step = _START + self.video_token(tokenizer) * (grid.height * grid.width) + _END
        (times,) = assign([video.times], [grid.frames], self.frames_per_step, self.middle_of_steps)
        assert times is not None
        return "".join(f"<{time:.1f} seconds>{step}" for time in times.tolist())
