"""LLaVA-NeXT-Video: CLIP tower with a class token, patches averaged to half the side before the projector."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import ModelError
from ..inputs.pixels import PixelSpec, flag, prepare_pixels, whole
from ..registry import register_family
from .common import chunks
from .common.family import Family
from .common.image_tiles import like
from .common.layer_attention import LayerAttention, LayerSignals, layer_of, output_hook
from .common.layout import Clip, FeatureLayout, Grid
from .common.part import Part
from .common.prompt_format import VideoPlaceholders
from .common.saliency import pool_means
from .common.signals import ForwardHook, SignalParts
from .common.square_frames.encoding import EqualVideos
from .common.transformers_compat import pixels_name, stack_like, vision_model

_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


class CroppedFrames(VideoPlaceholders):
    """Frames are scaled with their aspect ratio, then cropped to a square in the middle."""

    family: "LlavaNextVideo"

    def frame_size(
        self, config: Mapping[str, Any], height: int, width: int, _frames: int | None = None
    ) -> tuple[int, int]:
        """See `PromptFormat.frame_size`: the shorter side from the config; the longer one is cropped later."""
        if not flag(config, "do_resize"):
            return height, width
        size = config.get("size") or self.family.image_size
        if isinstance(size, Mapping) and "shortest_edge" not in size:
            return PixelSpec.from_config({"size": size}, PixelSpec((0, 0), _MEAN, _STD)).size
        shortest = whole("size", size["shortest_edge"] if isinstance(size, Mapping) else size)
        longest = int(shortest * max(height, width) / min(height, width))
        return (shortest, longest) if height <= width else (longest, shortest)

    def pixels(self, frames: Tensor, config: Mapping[str, Any], *, resized: bool = False) -> Tensor:
        """See `PromptFormat.pixels`: ``(1, T, 3, height, width)`` float32, as CLIP accepts one size only."""
        del resized
        height, width = self.frame_size(config, *frames.shape[-2:])
        spec = PixelSpec.from_config(config, PixelSpec((0, 0), _MEAN, _STD), (height, width))
        side = self.family.image_size
        if min(height, width) < side or (not flag(config, "do_center_crop") and (height, width) != (side, side)):
            raise ModelError(
                f"the preprocessor config makes frames of {height} x {width} pixels, but the model takes {side} x "
                f"{side}: fetch the checkpoint again"
            )
        # Where it does not come out even, the pixel more stays below and to the right, as in the stock processor.
        top, left = (height - side) // 2, (width - side) // 2
        return prepare_pixels(frames, spec)[None, ..., top : top + side, left : left + side].contiguous()


class SquareGrid(FeatureLayout):
    """Pixels are ``(videos, T, 3, height, width)``, with the same T for all videos."""

    family: "LlavaNextVideo"

    def grids(self, *args: Any, **kwargs: Any) -> list[Grid]:
        """See `FeatureLayout.grids`."""
        pixels = args[0] if args else kwargs[pixels_name(kwargs)]
        side = self.family.side // self.family.stride
        return [Grid(pixels.shape[1], side, side)] * pixels.shape[0]

    def features(self, output: Any, _clips: Sequence[Clip]) -> list[Tensor]:
        """See `FeatureLayout.features`; older releases return ``(T, H * W, D)`` for each video."""
        return [video.flatten(0, -2) for video in output.pooler_output]

    def replace_video_features(self, output: Any, _clips: Sequence[Clip], features: Sequence[Tensor]) -> None:
        """See `FeatureLayout.replace_video_features`."""
        output.pooler_output = like(output.pooler_output, torch.cat(list(features)))


class ClipSignals(LayerSignals):
    """Signals of the last layer that the features use (the last but one of the tower).

    The class token's share of the saliency is distributed over the patches. Saliency and keys are averaged over 2 x 2
    patches, as the features are. Frame features are the class token after the tower and its layer norm.
    """

    family: "LlavaNextVideo"

    @property
    def layer(self) -> LayerAttention:
        """See `LayerSignals.layer`."""
        layers = self.family.tower.encoder.layers
        attention = layer_of(self.model.config.vision_feature_layer, layers).self_attn
        return LayerAttention(attention.q_proj, attention.k_proj, attention.num_heads, self.pool, leading=1)

    def hooks(self, collected: SignalParts, needs: frozenset[str], kind: str) -> list[ForwardHook]:
        """See `EncoderSignals.hooks`."""
        hooks = super().hooks(collected, needs, kind)
        if "frame_features" in needs:
            norm = self.family.tower.post_layernorm
            hooks.append(output_hook(norm, collected, "frame_features", lambda pooled: pooled))
        return hooks

    def pool(self, values: Tensor) -> Tensor:
        """Average values of patches ``(F, side * side, C)`` over those of a token: ``(F, H, W, C)``."""
        return pool_means(values, self.family.side, self.family.stride)


class VideoBatchEncoding(EqualVideos):
    """Frames do not attend to each other; those of a chunk are encoded as a video of their own."""

    family: "LlavaNextVideo"
    std = _STD

    def frame_bytes(self, _grids: Sequence[Grid]) -> int:
        """See `ChunkedEncoding.frame_bytes`: the MLP of a layer of the tower, and the hidden states of all layers.

        Stock code of some releases collects those.
        """
        vision = self.model.config.vision_config
        width = (2 + vision.num_hidden_layers) * vision.hidden_size + 2 * vision.intermediate_size
        return int(self.family.side**2 * width * self.family.encoder.dtype.itemsize)

    def encode_chunks(
        self, original: Callable[..., Any], bounds: Sequence[tuple[int, int]], *args: Any, **kwargs: Any
    ) -> Any:
        """See `ChunkedEncoding.encode_chunks`."""
        pixels, args = (args[0], args[1:]) if args else (kwargs.pop(pixels_name(kwargs)), ())
        frames = pixels.flatten(0, 1)[None]
        kind, joined, pooled = chunks.collect(
            lambda start, stop: original(frames[:, start:stop], *args, **kwargs), bounds, kwargs
        )
        output = kind(**joined)
        output.pooler_output = self.join(pooled, len(pixels))
        return output

    def spread(self, output: Any, rows: Tensor, *args: Any, **kwargs: Any) -> Any:
        """See `ChunkedEncoding.spread`."""
        pixels, made = args[0] if args else kwargs[pixels_name(kwargs)], type(output)()
        made.pooler_output = self.join([self.of_rows(output.pooler_output, rows)], len(pixels))
        return made

    def of_rows(self, pooled: Any, rows: Tensor) -> Any:
        """A `pooler_output` of one video with the features of these frames."""
        features: Tensor = pooled[0]
        # Some releases have an axis for frames.
        frames = features.reshape(int(rows[-1]) + 1, -1, features.shape[-1])[rows.to(features.device)]
        return stack_like(frames.reshape(1, -1, *features.shape[1:]), pooled)

    def join(self, pooled: Sequence[Any], videos: int) -> Any:
        """The `pooler_output` of all videos, from that of each chunk."""
        features = torch.cat([part[0] for part in pooled])
        return stack_like(features.view(videos, -1, *features.shape[1:]), pooled[0])


@register_family("LlavaNextVideoForConditionalGeneration")
class LlavaNextVideo(Family):
    """`LlavaNextVideoForConditionalGeneration` with a CLIP tower."""

    name = "llava-next-video"
    checkpoints: ClassVar[tuple[str, ...]] = (
        "llava-hf/LLaVA-NeXT-Video-7B-hf",
        "llava-hf/LLaVA-NeXT-Video-7B-DPO-hf",
        "llava-hf/LLaVA-NeXT-Video-7B-32K-hf",
        "llava-hf/LLaVA-NeXT-Video-34B-hf",
        "llava-hf/LLaVA-NeXT-Video-34B-DPO-hf",
    )
    default_frames = 32
    in_one_piece = True
    prompt = Part(CroppedFrames)
    layout = Part(SquareGrid)
    signals = Part(ClipSignals)
    encoding = Part(VideoBatchEncoding)

    @property
    def tower(self) -> Any:
        """The CLIP vision model."""
        return clip_tower(self.encoder.vision_tower)

    @property
    def side(self) -> int:
        """Side of a frame in patches."""
        return self.image_size // int(self.model.config.vision_config.patch_size)

    @property
    def image_size(self) -> int:
        """Side of a frame in pixels."""
        return int(self.model.config.vision_config.image_size)

    @property
    def stride(self) -> int:
        """Side of a token in patches."""
        return int(self.model.config.spatial_pool_stride)


def clip_tower(module: Any) -> Any:
    """The vision model of a tower; `ModelError` unless it is CLIP's."""
    tower = vision_model(module)
    if not hasattr(tower, "pre_layrnorm"):
        raise ModelError(f"the vision tower is a {type(tower).__name__}: only CLIP towers are supported")
    return tower
