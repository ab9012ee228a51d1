"""GLM-4.1V, GLM-4.5V and GLM-4.6V: every step of a video is written as an image, followed by its time."""

from typing import Any

from ..inputs.frame_size import SizeRule
from ..registry import register_family
from .common.part import Part
from .common.patch_sequence import PatchSequenceFamily, PatchSequenceLayout, TimestampedSteps


class ImagePlaceholders(PatchSequenceLayout):
    """The placeholder is that of images; the one for videos occurs in chat templates only."""

    @property
    def placeholder(self) -> int:
        """See `FeatureLayout.placeholder`."""
        return int(self.model.config.image_token_id)


class ImageSteps(TimestampedSteps):
    """Steps as in ``<|begin_of_image|><|image|>...<|end_of_image|>2 seconds``."""

    def render_step(self, _tokenizer: Any, seconds: float, tokens: int) -> str:
        """See `TimestampedSteps.render_step`; GLM-4.6V has the classes of older models, but its own processor."""
        config = self.family.config
        processor = str(config.get("video_processor_type") or config.get("processor_class"))
        decimal = processor.startswith("Glm46V") or type(self.model).__name__.startswith("Glm46V")
        time = f"{seconds:.1f} seconds" if decimal else f"{int(seconds)}"
        return f"<|begin_of_image|>{'<|image|>' * tokens}<|end_of_image|>{time}"


@register_family("Glm4vForConditionalGeneration", "Glm4vMoeForConditionalGeneration", "Glm46VForConditionalGeneration")
class Glm4V(PatchSequenceFamily):
    """`Glm4vForConditionalGeneration`, its mixture of experts, and `Glm46VForConditionalGeneration`.

    Stock models accept no image beside a video, as they look for the features of both at the same placeholders. In
    releases that encode before they copy prompts (5.23), they do not copy a video for several beams or answers.
    """

    name = "glm-4v"
    checkpoints = ("zai-org/GLM-4.1V-9B-Thinking", "zai-org/GLM-4.5V", "zai-org/GLM-4.6V", "zai-org/GLM-4.6V-Flash")
    tested = PatchSequenceFamily.tested - {"image beside video", "beams", "sampling", "pruning inside"}
    default_frames = 32
    keeps_positions = True
    size_rule = SizeRule(112 * 112, 28 * 28 * 2 * 30_000, of="video")
    prompt = Part(ImageSteps)
    layout = Part(ImagePlaceholders)

    @property
    def widths(self) -> tuple[int, int]:
        """See `PatchSequenceFamily.widths`: the MLP of the tower is as wide as its output."""
        vision = self.model.config.vision_config
        return vision.hidden_size, vision.out_hidden_size
