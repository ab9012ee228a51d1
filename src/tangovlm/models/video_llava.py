"""Video-LLaVA: CLIP tower for videos; each frame has a class token, which the language model receives as well."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..registry import register_family
from .common.layout import Clip, Grid
from .common.part import Part
from .common.square_frames.images import AllTiles
from .common.transformers_compat import Arg, pop_value
from .llava_next_video import LlavaNextVideo, SquareGrid, VideoBatchEncoding, clip_tower


class ClassTokenFirst(SquareGrid):
    """The tokens of every frame follow its class token, which is not on the grid and is always kept."""

    def feature_count(self, grid: Grid) -> int:
        """See `FeatureLayout.feature_count`."""
        return grid.tokens + grid.frames

    def grid_indices(self, grid: Grid) -> Tensor:
        """See `FeatureLayout.grid_indices`: all but the first of each frame."""
        return torch.arange(self.feature_count(grid)).view(grid.frames, -1)[:, 1:].flatten()

    def features(self, output: Any, clips: Sequence[Clip]) -> list[Tensor]:
        """See `FeatureLayout.features`; stock code returns ``(F, 1 + H * W, D)``, the frames of all videos."""
        return list(torch.split(output.pooler_output.flatten(0, 1), [self.feature_count(clip.grid) for clip in clips]))


class FrameBatchEncoding(VideoBatchEncoding):
    """As in LLaVA-NeXT-Video, but stock code returns frames, whichever video they belong to."""

    def of_rows(self, pooled: Any, rows: Tensor) -> Any:
        """See `VideoBatchEncoding.of_rows`."""
        return pooled[rows.to(pooled.device)]

    def join(self, pooled: Sequence[Any], _videos: int) -> Tensor:
        """See `VideoBatchEncoding.join`."""
        return torch.cat(list(pooled))


@register_family("VideoLlavaForConditionalGeneration")
class VideoLlava(LlavaNextVideo):
    """`VideoLlavaForConditionalGeneration` with CLIP towers.

    Signals are those of the tower for videos, of the last layer that the features use.
    """

    name = "video-llava"
    checkpoints = ("LanguageBind/Video-LLaVA-7B-hf",)
    default_frames = 8
    in_one_piece = False
    prunes_images = True
    stride = 1
    layout = Part(ClassTokenFirst)
    encoding = Part(FrameBatchEncoding)

    @property
    def tower(self) -> Any:
        """See `LlavaNextVideo.tower`."""
        return clip_tower(self.encoder.video_tower)

    def of_images(self) -> "VideoLlavaImages":
        """See `Family.of_images`."""
        return VideoLlavaImages(self.model, saliency=self.saliency, head_weights=self.head_weights, config=self.config)


class SquareImages(SquareGrid):
    """Pixels are ``(images, 3, height, width)``; an image has no class token."""

    @property
    def placeholder(self) -> int:
        """See `FeatureLayout.placeholder`."""
        config = self.model.config
        return int(getattr(config, "image_token_index", None) or config.image_token_id)

    def grids(self, *args: Any, **kwargs: Any) -> list[Grid]:
        """See `FeatureLayout.grids`.

        Raises
        ------
        InputError: a call or a configuration that keeps the class token of images.
        """
        strategy = kwargs.get(Arg.FEATURE_STRATEGY) or self.model.config.vision_feature_select_strategy
        if strategy != "default":
            raise InputError(
                f"{Arg.FEATURE_STRATEGY} is {strategy!r}, with which images have other tokens than patches: set it to "
                "'default', or leave images=True out"
            )
        pixels = args[0] if args else pop_value(dict(kwargs), Arg.PIXELS)
        return [Grid(1, self.family.side, self.family.side)] * len(pixels)


class VideoLlavaImages(VideoLlava):
    """The images of a `VideoLlava`, which have a tower of their own."""

    layout = Part(SquareImages)  # type: ignore[assignment]
    encoding = Part(AllTiles)  # type: ignore[assignment]
    feature_method = "get_image_features"
    visual_inputs = (Arg.PIXELS, Arg.IMAGE_PIXELS)

    @property
    def tower(self) -> Any:
        """See `LlavaNextVideo.tower`."""
        return clip_tower(self.encoder.image_tower)
