"""GLM-4.1V, GLM-4.5V and GLM-4.6V: time is text behind every step, and each step stands where an image would."""

from typing import Any

from ..inputs.frame_size import SizeRule
from ..registry import register_family
from .common.patch_sequence import PatchSequenceFamily
from .common.prompt_format import VideoInput

_IMAGE, _START, _END = "<|image|>", "<|begin_of_image|>", "<|end_of_image|>"


@register_family("Glm4vForConditionalGeneration", "Glm4vMoeForConditionalGeneration", "Glm46VForConditionalGeneration")
class Glm4V(PatchSequenceFamily):
    """`Glm4vForConditionalGeneration`, its mixture of experts, and `Glm46VForConditionalGeneration`.

    Stock models take no image beside a video, as they look for features of both at the same placeholders. In releases
    that encode before they copy prompts (5.23), they find no copies of a video for several beams or answers.
    """

    name = "glm-4v"
    checkpoints = (
        "zai-org/GLM-4.1V-9B-Thinking",
        "zai-org/GLM-4.5V",
        "zai-org/GLM-4.6V",
        "zai-org/GLM-4.6V-Flash",
    )
    tested = PatchSequenceFamily.tested - {"image beside video", "beams", "sampling", "pruning inside"}
    default_frames = 32
    keeps_positions = True
    size_rule = SizeRule(112 * 112, 28 * 28 * 2 * 30_000, of="video")

    @property
    def placeholder(self) -> int:
        """See `Family.placeholder`: an image's; the one for a video is in chat templates only."""
        return int(self.model.config.image_token_id)

    @property
    def widths(self) -> tuple[int, int]:
        """See `PatchSequenceFamily.widths`: the MLP of the tower is as wide as its output."""
        vision = self.model.config.vision_config
        return vision.hidden_size, vision.out_hidden_size

    def render_video(self, _tokenizer: Any, video: VideoInput) -> str:
        """See `PromptFormat.render_video`: each step is an image, followed by the time of its first frame."""
        grid = self.packed(video.pixels)[2]
        image = _START + _IMAGE * (grid.height * grid.width) + _END
        return "".join(image + self._said(time) for time in video.times[:: self.frames_per_step].tolist())

    def _said(self, seconds: float) -> str:
        """A time as the stock processor writes it; GLM-4.6V has the classes of older models, but its own processor."""
        own = str(self.config.get("video_processor_type") or self.config.get("processor_class"))
        newer = own.startswith("Glm46V") or type(self.model).__name__.startswith("Glm46V")
        return f"{seconds:.1f} seconds" if newer else f"{int(seconds)}"
