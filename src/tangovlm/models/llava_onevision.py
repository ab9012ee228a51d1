"""LLaVA-OneVision: SigLIP tower, two-layer projector, bilinear pooling to half the side, a newline after the video."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from threading import get_ident
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..checkpoints.checkpoint import load_complete
from ..checkpoints.head_weights import find_head_weights
from ..errors import ModelError
from ..inputs.pixels import PixelSpec, flag, prepare_pixels, unresized
from ..machine.devices import device_of
from ..registry import register_family
from ..tokens import VideoTokens
from .common.family import Family
from .common.layer_attention import LayerAttention
from .common.layout import Clip, FeatureLayout, Grid
from .common.part import Part
from .common.prompt_format import VideoPlaceholders
from .common.saliency import PoolingHead, pool_to_grid
from .common.signals import EncoderSignals, ForwardHook, ReadPoint, SignalParts, Signals, on_output, value_hooks
from .common.sinks import sinks_for_grid
from .common.square_frames.encoding import VideoBatchEncoding
from .common.square_frames.images import AllTiles, PackedImages, Rows, packed
from .common.transformers_compat import Arg, pixels_name, vision_model


class SquareFrames(VideoPlaceholders):
    """Frames are resized to a square, without their aspect ratio."""

    family: "LlavaOnevision"
    streams = True

    def _spec(self, config: Mapping[str, Any], height: int, width: int) -> PixelSpec:
        """How frames of this size become pixels.

        Raises
        ------
        InputError: the config disables resizing, and the model does not accept this size.
        ModelError: see `PixelSpec.from_config`.
        """
        spec, side = PixelSpec.from_config(config, self.family.pixel_spec), self.family.image_size
        if flag(config, "do_resize"):
            return spec
        if (height, width) != (side, side):
            raise unresized(height, width, f"{side} x {side} pixels")
        return replace(spec, size=(side, side))

    def frame_size(
        self, config: Mapping[str, Any], height: int, width: int, _frames: int | None = None
    ) -> tuple[int, int]:
        """See `PromptFormat.frame_size`."""
        return self._spec(config, height, width).size

    def pixels(self, frames: Tensor, config: Mapping[str, Any], *, resized: bool = False) -> Tensor:
        """See `PromptFormat.pixels`: ``(1, T, 3, height, width)`` float32."""
        del resized
        return prepare_pixels(frames, self._spec(config, *frames.shape[-2:]))[None]

    @contextmanager
    def streamed(self, frames: int, config: Mapping[str, Any], take: Callable[[int, int], Tensor]) -> Iterator[Tensor]:
        """See `PromptFormat.streamed`."""
        side, device = self.family.image_size, self.family.device
        size = self._spec(config, side, side).size
        pixels = torch.empty(1, frames, 3, *size, dtype=torch.float32, device=device)
        filled, thread = 0, get_ident()

        def fill(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            nonlocal filled
            if get_ident() != thread:
                return
            start, filled = filled, filled + len(args[0])
            args[0].copy_(self.pixels(take(start, filled).to(device, non_blocking=True), config)[0])

        hook = self.family.encoder.vision_tower.register_forward_pre_hook(fill)
        try:
            yield pixels
        finally:
            hook.remove()


class NewlineAfterVideo(FeatureLayout):
    """A video of T frames has T * H * W tokens, followed by one newline."""

    family: "LlavaOnevision"

    def grid(self, frames: int) -> Grid:
        """Token grid of a video with this number of frames."""
        half = (self.family.side + 1) // 2
        return Grid(frames, half, half)

    def grids(self, *args: Any, **kwargs: Any) -> list[Grid]:
        """See `FeatureLayout.grids`: pixels are ``(videos, T, 3, height, width)``, with the same T for all videos."""
        pixels = args[0] if args else kwargs[pixels_name(kwargs)]
        return [self.grid(pixels.shape[1])] * pixels.shape[0]

    @property
    def features_per_frame(self) -> int:
        """Number of features of a frame."""
        return self.grid(1).tokens

    def feature_count(self, grid: Grid) -> int:
        """See `FeatureLayout.feature_count`."""
        return grid.tokens + 1

    def after_grid(self, features: Tensor, grid: Grid) -> Tensor:
        """See `FeatureLayout.after_grid`: the newline, which 5.17 adds after its encoder."""
        newline: Tensor = self.family.encoder.image_newline[None].to(features)
        return features[grid.tokens :] if len(features) > grid.tokens else newline


class PoolingHeadSignals(EncoderSignals):
    """Signals of a SigLIP tower and its attention-pooling head.

    p-attn and frame features come from the pooling head, applied to the output of the tower's last layer (LLaVA
    removed one layer), normalised by the layer norm that belongs to the head: the checkpoint's own if it has a head,
    else that of the published SigLIP. "attn" and keys come from the last layer.
    """

    family: "LlavaOnevision"
    saliency_kinds = ("p-attn", "attn")

    def prepare(self, needs: frozenset[str], kind: str | None = None) -> None:
        """See `EncoderSignals.prepare`."""
        if self.needs_head(needs, self.resolve_saliency(kind)):
            _ = self.family.head

    def needs_head(self, needs: frozenset[str], kind: str) -> bool:
        """Whether any of the signals comes from the pooling head."""
        return "frame_features" in needs or ("saliency" in needs and kind == "p-attn")

    def hooks(self, collected: SignalParts, needs: frozenset[str], kind: str) -> list[ForwardHook]:
        """See `EncoderSignals.hooks`."""
        tower = self.family.tower
        attention = tower.encoder.layers[-1].self_attn
        layer = LayerAttention(attention.q_proj, attention.k_proj, attention.num_heads, self.pool)
        hooks = layer.hooks(collected, needs if kind == "attn" else needs - {"saliency"})
        if self.needs_head(needs, kind):
            hooks.append(on_output(tower.post_layernorm, self.on_hidden(collected, needs, kind)))
        return hooks

    def on_hidden(self, collected: SignalParts, needs: frozenset[str], kind: str) -> Callable[..., None]:
        """A hook on a module whose input is the output of the last layer."""
        family = self.family

        @torch.no_grad()
        def hook(_module: nn.Module, args: tuple[Tensor, ...], _output: Tensor) -> None:
            # The tower may have been moved since the last call, or its end may be on another device.
            family.head = family.head.to(args[0].device)
            scores, pooled = family.head(args[0], pool="frame_features" in needs)
            if pooled is not None:
                collected["frame_features"].append(pooled)
            if "saliency" in needs and kind == "p-attn":
                collected["saliency"].append(self.pool(scores[..., None])[..., 0])

        return hook

    def pool(self, values: Tensor) -> Tensor:
        """Pool values of patches ``(F, side * side, C)`` as the model pools its features: ``(F, H, W, C)``."""
        return pool_to_grid(values, self.family.side)

    def value_hooks(
        self, collected: SignalParts, points: Sequence[ReadPoint], take: Callable[[Tensor], Tensor]
    ) -> list[ForwardHook]:
        """See `EncoderSignals.value_hooks`."""
        return value_hooks(points, collected, lambda hidden: self.pool(take(hidden)[..., None])[..., 0])

    def sinks(self, grid: Grid) -> tuple[int, ...] | None:
        """See `EncoderSignals.sinks`: the positions that the release masks."""
        return sinks_for_grid(grid.height, grid.width)


@register_family("LlavaOnevisionForConditionalGeneration")
class LlavaOnevision(Family):
    """`LlavaOnevisionForConditionalGeneration` with a SigLIP tower."""

    name = "llava-onevision"
    checkpoints: ClassVar[tuple[str, ...]] = (
        "llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
        "llava-hf/llava-onevision-qwen2-7b-ov-hf",
        "llava-hf/llava-onevision-qwen2-72b-ov-hf",
        "lmms-lab/llava-onevision-qwen2-0.5b-ov",
        "lmms-lab/llava-onevision-qwen2-7b-ov",
        "lmms-lab/llava-onevision-qwen2-72b-ov-sft",
    )
    default_frames = 32
    in_one_piece = True
    pixel_spec: ClassVar[PixelSpec] = PixelSpec(
        size=(384, 384), mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)
    )
    """Defaults of the stock video processor, used where the checkpoint's preprocessor config has no value."""
    prompt = Part(SquareFrames)
    layout: ClassVar[Part[NewlineAfterVideo]] = Part(NewlineAfterVideo)
    signals: ClassVar[Part[PoolingHeadSignals]] = Part(PoolingHeadSignals)
    encoding = Part(VideoBatchEncoding)
    prunes_images = True

    def of_images(self) -> "LlavaOnevisionImages":
        """See `Family.of_images`."""
        return LlavaOnevisionImages(self)

    @classmethod
    def load_model(cls, source: str, **options: Any) -> Any:
        """See `Family.load_model`."""
        from transformers import LlavaOnevisionForConditionalGeneration

        return load_complete(LlavaOnevisionForConditionalGeneration, source, **options)

    @cached_property
    def tower(self) -> Any:
        """The SigLIP vision model."""
        tower = vision_model(self.encoder.vision_tower)
        if not hasattr(tower, "post_layernorm") or not hasattr(tower.encoder.layers[-1].self_attn, "q_proj"):
            raise ModelError(f"the vision tower is a {type(tower).__name__}: only SigLIP towers are supported")
        return tower

    @property
    def image_size(self) -> int:
        """Side of a frame in pixels."""
        return int(self.model.config.vision_config.image_size)

    @property
    def side(self) -> int:
        """Side of a frame in patches."""
        return self.image_size // int(self.model.config.vision_config.patch_size)

    @cached_property
    def head(self) -> PoolingHead:
        """The pooling head: the tower's own, or the one named by `head_weights`, or the published one of its size.

        Raises
        ------
        ModelError: none is available, or it has another width.
        """
        from transformers.activations import ACT2FN

        vision = self.model.config.vision_config
        weights = self.read_head()
        activation: Callable[[Tensor], Tensor] = ACT2FN[vision.hidden_act]
        device = device_of(self.tower)
        return PoolingHead.from_weights(weights, vision.num_attention_heads, vision.layer_norm_eps, activation, device)

    def read_head(self) -> dict[str, Tensor]:
        """Weights of the pooling head under the names of a SigLIP checkpoint; see `head`."""
        return find_head_weights(self.tower, int(self.model.config.vision_config.hidden_size), self.head_weights)


class UnpooledSignals(PoolingHeadSignals):
    """The tokens of a tile are its patches."""

    def pool(self, values: Tensor) -> Tensor:
        """See `PoolingHeadSignals.pool`."""
        return values.view(len(values), self.family.side, self.family.side, -1)


class LlavaOnevisionImages(LlavaOnevision):
    """The images of a `LlavaOnevision`: see `PackedImages` for their tokens."""

    layout = Part(PackedImages)  # type: ignore[assignment]
    signals = Part(UnpooledSignals)
    encoding = Part(AllTiles)
    feature_method = "get_image_features"
    visual_inputs = (Arg.PIXELS,)

    def __init__(self, videos: LlavaOnevision) -> None:
        super().__init__(videos.model, saliency=videos.saliency, head_weights=videos.head_weights, config=videos.config)
        self._videos = videos

    @property
    def head(self) -> PoolingHead:
        """See `LlavaOnevision.head`: the same one."""
        return self._videos.head

    @head.setter
    def head(self, head: PoolingHead) -> None:
        self._videos.head = head

    def video_tokens(self, features: Tensor, clip: Clip, signals: Signals, timestamps: Tensor | None) -> VideoTokens:
        """See `Family.video_tokens`; maps of the tiles are packed as their features are."""
        grid = clip.grid
        if not isinstance(grid, Rows):
            return super().video_tokens(features, clip, signals, timestamps)
        tiles = slice(clip.start, clip.start + grid.tiles)
        saliency, keys, pooled = signals.saliency, signals.keys, signals.frame_features
        assert not isinstance(saliency, list)
        assert not isinstance(keys, list)
        return VideoTokens(
            features=features[self.layout.grid_indices(grid)].view(*grid, -1),
            saliency=None if saliency is None else packed(self.encoder, saliency[tiles, ..., None], grid)[..., 0],
            timestamps=timestamps,
            # That of the whole picture, the tile before.
            frame_features=None if pooled is None else pooled[clip.start - 1][None],
            keys=None if keys is None else packed(self.encoder, keys[tiles], grid),
        )
