"""LLaVA-OneVision: SigLIP tower, two-layer projector, bilinear pooling to half the side, a newline after the video."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from threading import get_ident
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..checkpoints.checkpoint import complete
from ..checkpoints.head_weights import load_head_weights
from ..errors import ModelError
from ..inputs.pixels import PixelSpec, flag, prepare_pixels, unresized
from ..machine.devices import device_of, weights_of
from ..registry import register_family
from .common import chunks
from .common.family import Family
from .common.layer_attention import LayerAttention
from .common.layout import Found, Grid
from .common.prompt_format import VideoInput
from .common.saliency import PoolingHead, pool_to_grid
from .common.sinks import sinks_for_grid
from .common.taps import Tap, behind
from .common.transformers_compat import Arg, bare, pixels_name

_PUBLISHED_HEAD = "google/siglip-so400m-patch14-384"
_PUBLISHED_WIDTH = 1152


@register_family("LlavaOnevisionForConditionalGeneration")
class LlavaOnevision(Family):
    """`LlavaOnevisionForConditionalGeneration` with a SigLIP tower.

    p-attn feeds the pooling head with what the tower's last layer gives (which LLaVA truncated by one), normalised by
    the layer norm that belongs to the head: the checkpoint's own where it has a head, else the published SigLIP's.
    """

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
    saliency_kinds = ("p-attn", "attn")
    in_one_piece = True
    streams = True
    pixel_spec: ClassVar[PixelSpec] = PixelSpec(
        size=(384, 384), mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)
    )
    """What holds where a checkpoint does not say, as in the stock processor."""

    @classmethod
    def load_model(cls, source: str, **options: Any) -> Any:
        """See `Family.load_model`."""
        from transformers import LlavaOnevisionForConditionalGeneration

        return complete(LlavaOnevisionForConditionalGeneration, source, **options)

    @cached_property
    def tower(self) -> Any:
        """The SigLIP vision model."""
        tower = bare(self.encoder.vision_tower)
        if not hasattr(tower, "post_layernorm") or not hasattr(tower.encoder.layers[-1].self_attn, "q_proj"):
            raise ModelError(f"the vision tower is a {type(tower).__name__}: only SigLIP towers are supported")
        return tower

    @property
    def side(self) -> int:
        """Patches along a side of a frame."""
        vision = self.model.config.vision_config
        return int(vision.image_size // vision.patch_size)

    def grids(self, *args: Any, **kwargs: Any) -> list[Grid]:
        """All videos of a batch have the same number of frames: pixels are ``(videos, T, 3, height, width)``."""
        pixels = args[0] if args else kwargs[pixels_name(kwargs)]
        return [self.grid(pixels.shape[1])] * pixels.shape[0]

    def grid(self, frames: int) -> Grid:
        """Of a video of so many frames."""
        half = (self.side + 1) // 2
        return Grid(frames, half, half)

    @property
    def frame_rows(self) -> int:
        """Features of a frame."""
        return self.grid(1).tokens

    def feature_count(self, grid: Grid) -> int:
        """See `Family.feature_count`: the video is followed by one newline."""
        return grid.tokens + 1

    def frame_bytes(self, _grids: Sequence[Grid]) -> int:
        """See `Family.frame_bytes`: the MLP of a layer of the tower, or projector and pooling where they take more.

        Both beside the hidden states of all layers, which stock code of some releases collects on the way.
        """
        vision, text = self.model.config.vision_config, self.model.config.text_config
        width = max(2 * vision.hidden_size + 2 * vision.intermediate_size, vision.hidden_size + 3 * text.hidden_size)
        collected = vision.num_hidden_layers * vision.hidden_size
        return int(self.side**2 * (width + collected) * self.encoder.dtype.itemsize)

    def encode_chunks(
        self, original: Callable[..., Any], bounds: Sequence[tuple[int, int]], *args: Any, **kwargs: Any
    ) -> Any:
        """See `Family.encode_chunks`: the frames of a chunk pass for a video of their own."""
        pixels, args = (args[0], args[1:]) if args else (kwargs.pop(pixels_name(kwargs)), ())
        frames = pixels.flatten(0, 1)[None]
        kind, joined, pooled = chunks.collect(
            lambda start, stop: original(frames[:, start:stop], *args, **kwargs), bounds, kwargs
        )
        counts = [(stop - start) * self.frame_rows for start, stop in bounds]
        rows = torch.cat([part[0, :count] for part, count in zip(pooled, counts, strict=True)])
        videos = rows.view(pixels.shape[0], -1, rows.shape[-1])
        # What stands behind a video, if anything does, is the same for all.
        newline = pooled[-1][0, counts[-1] :].expand(pixels.shape[0], -1, -1)
        return kind(**joined, pooler_output=torch.cat([videos, newline], dim=1))

    def sinks(self, grid: Grid) -> tuple[int, ...] | None:
        """Positions masked by the release, for the 14 x 14 grid."""
        return sinks_for_grid(grid.height, grid.width)

    def prepare(self, needs: frozenset[str], kind: str | None = None) -> None:
        """See `Family.prepare`."""
        if self.wants_head(needs, self.resolve_saliency(kind)):
            _ = self.head

    def listen(self, found: Found, needs: frozenset[str], kind: str) -> list[Tap]:
        """See `Family.listen`."""
        attention = self.tower.encoder.layers[-1].self_attn
        layer = LayerAttention(attention.q_proj, attention.k_proj, attention.num_heads, self.pool)
        taps = layer.listen(found, needs if kind == "attn" else needs - {"saliency"})
        if self.wants_head(needs, kind):
            taps.append(behind(self.tower.post_layernorm, self._on_hidden(found, needs, kind)))
        return taps

    @cached_property
    def head(self) -> PoolingHead:
        """The pooling head: the tower's own, or the one named by `head_weights`, or the published one of its size.

        Raises
        ------
        ModelError: none to be had, or of another width.
        """
        from transformers.activations import ACT2FN

        vision = self.model.config.vision_config
        weights = self.read_head()
        activation: Callable[[Tensor], Tensor] = ACT2FN[vision.hidden_act]
        device = device_of(self.tower)
        return PoolingHead.from_weights(weights, vision.num_attention_heads, vision.layer_norm_eps, activation, device)

    def read_head(self) -> dict[str, Tensor]:
        """Weights of the pooling head under the names of a SigLIP checkpoint; see `head`."""
        hidden = int(self.model.config.vision_config.hidden_size)
        weights = self._head_weights(hidden)
        width = weights["head.probe"].shape[-1]
        if width != hidden:
            raise ModelError(
                f"head_weights {self.head_weights} is {width} wide but the tower {hidden}: "
                "give the head of the SigLIP that the tower was made from"
            )
        return weights

    def _head_weights(self, width: int) -> dict[str, Tensor]:
        own = getattr(self.tower, "head", None)
        if self.head_weights is not None:
            return load_head_weights(self.head_weights)
        if isinstance(own, nn.Module):
            parts = {"head": own, "post_layernorm": self.tower.post_layernorm}
            weights = {f"{part}.{name}": value for part in parts for name, value in weights_of(parts[part]).items()}
            quantised = [name for name, value in weights.items() if not value.is_floating_point()]
            if quantised:
                raise ModelError(
                    f"{quantised[0]} is quantised: give head_weights=FILE.safetensors (or --head-weights), or load the "
                    "model with llm_int8_skip_modules=['head']"
                )
            return weights
        if width != _PUBLISHED_WIDTH:
            raise ModelError(
                f"this checkpoint has no pooling head and no published one is {width} wide: "
                "give head_weights=FILE.safetensors (or --head-weights), or use saliency='attn' and a method without "
                "frame features"
            )
        return load_head_weights(_PUBLISHED_HEAD)

    def wants_head(self, needs: frozenset[str], kind: str) -> bool:
        """Whether signals come from the pooling head."""
        return "frame_features" in needs or ("saliency" in needs and kind == "p-attn")

    def _on_hidden(self, found: Found, needs: frozenset[str], kind: str) -> Callable[..., None]:
        @torch.no_grad()
        def hook(_module: nn.Module, args: tuple[Tensor, ...], _output: Tensor) -> None:
            # The tower may have been moved since the last call, or may be the later one of several devices.
            self.head = self.head.to(args[0].device)
            scores, pooled = self.head(args[0], pool="frame_features" in needs)
            if pooled is not None:
                found["frame_features"].append(pooled)
            if "saliency" in needs and kind == "p-attn":
                found["saliency"].append(self.pool(scores[..., None])[..., 0])

        return hook

    def pool(self, values: Tensor) -> Tensor:
        """Values of patches ``(F, side * side, C)`` as the model pools its features: ``(F, H, W, C)``."""
        return pool_to_grid(values, self.side)

    def spec_of(self, config: Mapping[str, Any], height: int, width: int) -> PixelSpec:
        """How frames of this size become pixels.

        Raises
        ------
        InputError: they are not to be resized, and the model takes others. ModelError: see `PixelSpec.from_config`.
        """
        spec, side = PixelSpec.from_config(config, self.pixel_spec), int(self.model.config.vision_config.image_size)
        if flag(config, "do_resize"):
            return spec
        if (height, width) != (side, side):
            raise unresized(height, width, f"{side} x {side} pixels")
        return replace(spec, size=(side, side))

    def frame_size(
        self, config: Mapping[str, Any], height: int, width: int, _frames: int | None = None
    ) -> tuple[int, int]:
        """See `Family.frame_size`."""
        return self.spec_of(config, height, width).size

    def pixels(self, frames: Tensor, config: Mapping[str, Any], *, resized: bool = False) -> Tensor:
        """``(1, T, 3, height, width)`` float32."""
        del resized
        return prepare_pixels(frames, self.spec_of(config, *frames.shape[-2:]))[None]

    @contextmanager
    def streamed(self, frames: int, config: Mapping[str, Any], take: Callable[[int, int], Tensor]) -> Iterator[Tensor]:
        """See `Family.streamed`."""
        side = int(self.model.config.vision_config.image_size)
        size = self.spec_of(config, side, side).size
        pixels = torch.empty(1, frames, 3, *size, dtype=torch.float32, device=self.device)
        filled, thread = 0, get_ident()

        def fill(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            nonlocal filled
            if get_ident() != thread:
                return
            start, filled = filled, filled + len(args[0])
            args[0].copy_(self.pixels(take(start, filled).to(self.device, non_blocking=True), config)[0])

        hook = self.encoder.vision_tower.register_forward_pre_hook(fill)
        try:
            yield pixels
        finally:
            hook.remove()

    def reserved(self, tokenizer: Any) -> tuple[str, ...]:
        """See `PromptFormat.reserved`."""
        return (str(tokenizer.convert_ids_to_tokens(self.model.config.image_token_index)),)

    def render_video(self, tokenizer: Any, video: VideoInput) -> str:
        """See `PromptFormat.render_video`."""
        return self.video_token(tokenizer) * sum(self.feature_count(grid) for grid in self.grids(video.pixels))

    def media_kwargs(self, video: VideoInput) -> dict[str, Tensor]:
        """See `PromptFormat.media_kwargs`."""
        return {Arg.VIDEO_PIXELS: video.pixels}
