"""Models whose vision encoder receives the patches of all videos as one sequence, each video with a grid of its own.

Shape letters: S patches of a call. The patches that are merged into one token, a square of neighbours, are contiguous.
"""

from abc import abstractmethod
from collections.abc import Mapping
from copy import copy
from typing import Any, ClassVar

from torch import Tensor, nn

from ...inputs.frame_size import SizeRule, resizes, with_limit
from ...inputs.pixels import PixelSpec, patches, prepare_pixels
from ...inputs.timestamps import assign
from .family import Family
from .layout import FeatureLayout, Grid
from .part import Part
from .patch_signals import PatchSequenceSignals, PatchSignalRecorder
from .patches.encoding import PatchSequenceEncoding
from .patches.medium import IMAGES, VIDEOS, Medium
from .prompt_format import PromptFormat, VideoInput
from .transformers_compat import Arg


class PatchSequenceLayout(FeatureLayout):
    """Every video has a grid of its own, given in patches by ``video_grid_thw (V, 3)``."""

    family: "PatchSequenceFamily"

    @property
    def frames_per_step(self) -> int:
        """See `FeatureLayout.frames_per_step`."""
        return int(self.model.config.vision_config.temporal_patch_size)

    @property
    def placeholder(self) -> int:
        """See `FeatureLayout.placeholder`."""
        return int(getattr(self.model.config, self.family.medium.token))

    def grids(self, *args: Any, **kwargs: Any) -> list[Grid]:
        """See `FeatureLayout.grids`."""
        thw, side = args[1] if len(args) > 1 else kwargs[self.family.medium.grids], self.family.merge_size
        return [Grid(steps, height // side, width // side) for steps, height, width in thw.tolist()]


class PatchSequencePrompt(PromptFormat):
    """A video is one run of placeholders, and its pixels are given as patches."""

    family: "PatchSequenceFamily"

    def limited(self, config: Mapping[str, Any], max_frame_pixels: int) -> Mapping[str, Any]:
        """See `PromptFormat.limited`."""
        return with_limit(config, max_frame_pixels, self.family.token_side)

    def frame_size(
        self, config: Mapping[str, Any], height: int, width: int, frames: int | None = None
    ) -> tuple[int, int]:
        """See `PromptFormat.frame_size`: a whole number of tokens, with about the same aspect ratio."""
        unit = self.family.token_side
        if not resizes(config, height, width, unit):
            return height, width
        count = self.family.default_frames if frames is None else frames
        return self.family.size_rule.size(config, height, width, count, unit, self.family.layout.frames_per_step)

    def pixels(self, frames: Tensor, config: Mapping[str, Any], *, resized: bool = False) -> Tensor:
        """See `PromptFormat.pixels`: ``(1, T, 3, height, width)`` float32; `media_kwargs` divides them into patches."""
        height, width = frames.shape[-2:]
        size = (height, width) if resized else self.frame_size(config, height, width, len(frames))
        return prepare_pixels(frames, PixelSpec.from_config(config, self.family.pixel_spec, size))[None]

    def video_token(self, tokenizer: Any) -> str:
        """See `PromptFormat.video_token`."""
        return str(tokenizer.convert_ids_to_tokens(self.model.config.video_token_id))

    def reserved(self, tokenizer: Any) -> tuple[str, ...]:
        """See `PromptFormat.reserved`."""
        image = str(tokenizer.convert_ids_to_tokens(self.model.config.image_token_id))
        return () if image == self.video_token(tokenizer) else (image,)

    def to_patches(self, pixels: Tensor) -> tuple[Tensor, Tensor, Grid]:
        """Divide the pixels of a video into patches.

        Parameters
        ----------
        pixels: ``(1, T, 3, height, width)``.

        Returns
        -------
        Patches ``(S, C)``, their grid in patches ``(1, 3)`` int64, and the grid of tokens.
        """
        sequence, thw = patches(
            pixels[0], self.family.patch_size, self.family.merge_size, self.family.layout.frames_per_step
        )
        (grid,) = self.family.layout.grids(sequence, thw)
        return sequence, thw, grid

    def render_video(self, tokenizer: Any, video: VideoInput) -> str:
        """See `PromptFormat.render_video`."""
        return self.video_token(tokenizer) * self.to_patches(video.pixels)[2].tokens

    def media_kwargs(self, video: VideoInput) -> dict[str, Tensor]:
        """See `PromptFormat.media_kwargs`."""
        sequence, thw, _ = self.to_patches(video.pixels)
        return {Arg.VIDEO_PIXELS: sequence, Arg.VIDEO_GRIDS: thw}

    def token_types(self, ids: Tensor) -> dict[str, Tensor]:
        """See `PromptFormat.token_types`: 2 for a video; models with M-RoPE need it."""
        return (
            {Arg.TOKEN_TYPES: 2 * (ids == self.family.layout.placeholder).int()} if self.family.keeps_positions else {}
        )


class TimestampedSteps(PatchSequencePrompt):
    """Every step of a video is a run of placeholders with its time as text."""

    separator: ClassVar[str] = ""
    """Text between two steps."""

    def render_video(self, tokenizer: Any, video: VideoInput) -> str:
        """See `PromptFormat.render_video`."""
        grid = self.to_patches(video.pixels)[2]
        (times,) = assign([video.times], [grid.frames], self.family.layout.frames_per_step, self.family.middle_of_steps)
        assert times is not None
        tokens = grid.height * grid.width
        return self.separator.join(self.render_step(tokenizer, seconds, tokens) for seconds in times.tolist())

    @abstractmethod
    def render_step(self, tokenizer: Any, seconds: float, tokens: int) -> str:
        """The text of one step.

        Parameters
        ----------
        seconds: time of the step.
        tokens: number of its placeholders.
        """


class PatchSequenceFamily(Family):
    """A family whose encoder is called with ``pixel_values_videos (S, C)`` and ``video_grid_thw (V, 3)`` in patches.

    Its saliency is "mean-query" or "attn", see `PatchSequenceSignals`.
    """

    prompt = Part(PatchSequencePrompt)
    layout = Part(PatchSequenceLayout)
    signals = Part(PatchSequenceSignals)
    encoding = Part(PatchSequenceEncoding)
    prunes_images: ClassVar[bool] = True
    medium: Medium = VIDEOS
    """What a bound family describes."""
    recorder: ClassVar[type[PatchSignalRecorder]] = PatchSignalRecorder
    """The functions of the hooks on the encoder."""

    pixel_spec: ClassVar[PixelSpec] = PixelSpec(
        size=(0, 0), mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)
    )
    """Defaults of the stock video processor, used where the checkpoint's preprocessor config has no value."""
    size_rule: ClassVar[SizeRule]
    """How the stock video processor chooses the size of frames."""

    def of_images(self) -> Family:
        """See `Family.of_images`: an image is a video of one step."""
        images = copy(self)
        images.medium = IMAGES
        images.feature_method, images.visual_inputs = IMAGES.feature_method, (IMAGES.pixels,)  # type: ignore[misc]
        return images

    @property
    def tower(self) -> Any:
        """The vision model, called with ``grid_thw``."""
        return self.encoder.visual

    @property
    def attention(self) -> Any:
        """The attention module of its last layer, called with ``position_embeddings``."""
        return self.tower.blocks[-1].attn

    @property
    def query_key(self) -> tuple[nn.Module, ...]:
        """The module that returns queries, keys and values concatenated, or those of queries and of keys."""
        return (self.attention.qkv,)

    @property
    def token_module(self) -> nn.Module:
        """The module that returns the tokens: in ``pooler_output``, or as its output."""
        tower: nn.Module = self.tower
        return tower

    def token_order(self, thw: Tensor) -> Tensor | None:
        """Raster index of each token in the order of the last layer, ``(tokens,)``; None if that is raster order.

        Parameters
        ----------
        thw: ``(V, 3)`` grids in patches.
        """
        del thw
        return None

    @property
    def widths(self) -> tuple[int, int]:
        """Channels of the tower, and of its MLP."""
        vision = self.model.config.vision_config
        return vision.hidden_size, vision.intermediate_size

    @property
    def heads(self) -> int:
        """Number of attention heads."""
        return int(self.attention.num_heads)

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return int(self.model.config.vision_config.patch_size)

    @property
    def merge_size(self) -> int:
        """Side of a token of a video in patches."""
        return int(self.model.config.vision_config.spatial_merge_size)

    @property
    def token_side(self) -> int:
        """Side of a token of a video in pixels."""
        return self.patch_size * self.merge_size
