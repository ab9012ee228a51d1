"""LLaVA-NeXT-Video: CLIP tower with a class token, patches averaged to half the side in front of the projector."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelError
from ..inputs.pixels import PixelSpec, flag, prepare_pixels, whole
from ..registry import register_family
from .common import chunks
from .common.family import Family
from .common.image_tiles import like
from .common.layer_attention import LayerAttention, layer_of, listen_to_output
from .common.layout import Clip, Found, Grid
from .common.prompt_format import VideoInput
from .common.saliency import pool_means
from .common.taps import Tap
from .common.transformers_compat import Arg, bare, pixels_name, stacked

_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


@register_family("LlavaNextVideoForConditionalGeneration")
class LlavaNextVideo(Family):
    """`LlavaNextVideoForConditionalGeneration` with a CLIP tower.

    Saliency is the attention that patches get in the last layer that the features use (the last but one of the tower),
    averaged over heads and queries, without the class token, whose share is dealt out. It and keys are averaged over
    2 x 2 patches, as the features are. Frame features are the class token behind the tower and its layer norm.
    """

    name = "llava-next-video"
    checkpoints = (
        "llava-hf/LLaVA-NeXT-Video-7B-hf",
        "llava-hf/LLaVA-NeXT-Video-7B-DPO-hf",
        "llava-hf/LLaVA-NeXT-Video-7B-32K-hf",
        "llava-hf/LLaVA-NeXT-Video-34B-hf",
        "llava-hf/LLaVA-NeXT-Video-34B-DPO-hf",
    )
    default_frames = 32
    saliency_kinds = ("attn",)
    in_one_piece = True

    @property
    def tower(self) -> Any:
        """The CLIP vision model."""
        tower = bare(self.encoder.vision_tower)
        if not hasattr(tower, "pre_layrnorm"):
            raise ModelError(f"the vision tower is a {type(tower).__name__}: only CLIP towers are supported")
        return tower

    @property
    def side(self) -> int:
        """Patches along a side of a frame."""
        vision = self.model.config.vision_config
        return int(vision.image_size // vision.patch_size)

    def grids(self, *args: Any, **kwargs: Any) -> list[Grid]:
        """All videos of a batch have the same number of frames: pixels are ``(videos, T, 3, height, width)``."""
        pixels = args[0] if args else kwargs[pixels_name(kwargs)]
        side = self.side // self.model.config.spatial_pool_stride
        return [Grid(pixels.shape[1], side, side)] * pixels.shape[0]

    def features(self, output: Any, _clips: Sequence[Clip]) -> list[Tensor]:
        """See `Family.features`; older releases give ``(T, H * W, D)`` for each video."""
        return [rows.flatten(0, -2) for rows in output.pooler_output]

    def replace_video_features(self, output: Any, _clips: Sequence[Clip], features: Sequence[Tensor]) -> None:
        """See `Family.replace_video_features`."""
        output.pooler_output = like(output.pooler_output, torch.cat(list(features)))

    def frame_bytes(self, _grids: Sequence[Grid]) -> int:
        """See `Family.frame_bytes`: the MLP of a layer of the tower, beside the hidden states of all layers.

        Stock code of some releases collects those.
        """
        vision = self.model.config.vision_config
        width = (2 + vision.num_hidden_layers) * vision.hidden_size + 2 * vision.intermediate_size
        return int(self.side**2 * width * self.encoder.dtype.itemsize)

    def encode_chunks(
        self, original: Callable[..., Any], bounds: Sequence[tuple[int, int]], *args: Any, **kwargs: Any
    ) -> Any:
        """See `Family.encode_chunks`: the frames of a chunk pass for a video of their own."""
        pixels, args = (args[0], args[1:]) if args else (kwargs.pop(pixels_name(kwargs)), ())
        frames = pixels.flatten(0, 1)[None]
        kind, joined, pooled = chunks.collect(
            lambda start, stop: original(frames[:, start:stop], *args, **kwargs), bounds, kwargs
        )
        rows = torch.cat([part[0] for part in pooled])
        made = kind(**joined)
        made.pooler_output = stacked(rows.view(len(pixels), -1, *rows.shape[1:]), pooled[0])
        return made

    def listen(self, found: Found, needs: frozenset[str], _kind: str) -> list[Tap]:
        """See `Family.listen`."""
        attention = layer_of(self.model.config.vision_feature_layer, self.tower.encoder.layers).self_attn
        heads = attention.num_heads
        taps = LayerAttention(attention.q_proj, attention.k_proj, heads, self.pool, leading=1).listen(found, needs)
        if "frame_features" in needs:
            taps.append(listen_to_output(self.tower.post_layernorm, found, "frame_features", lambda pooled: pooled))
        return taps

    def pool(self, values: Tensor) -> Tensor:
        """Values of patches ``(F, side * side, C)`` averaged over those of a token: ``(F, H, W, C)``."""
        return pool_means(values, self.side, self.model.config.spatial_pool_stride)

    # --- from a file to inputs ----------------------------------------------------------------------------------

    def frame_size(
        self, config: Mapping[str, Any], height: int, width: int, _frames: int | None = None
    ) -> tuple[int, int]:
        """See `Family.frame_size`: the shorter side as the checkpoint has it; what is too long is cut off later."""
        if not flag(config, "do_resize"):
            return height, width
        size = config.get("size") or self._square
        if isinstance(size, Mapping) and "shortest_edge" not in size:
            return PixelSpec.from_config({"size": size}, PixelSpec((0, 0), _MEAN, _STD)).size
        shortest = whole("size", size["shortest_edge"] if isinstance(size, Mapping) else size)
        longest = int(shortest * max(height, width) / min(height, width))
        return (shortest, longest) if height <= width else (longest, shortest)

    def pixels(self, frames: Tensor, config: Mapping[str, Any], *, resized: bool = False) -> Tensor:
        """``(1, T, 3, height, width)`` float32, the middle of the frames: CLIP takes one size only."""
        del resized
        height, width = self.frame_size(config, *frames.shape[-2:])
        spec = PixelSpec.from_config(config, PixelSpec((0, 0), _MEAN, _STD), (height, width))
        side = self._square
        if min(height, width) < side or (not flag(config, "do_center_crop") and (height, width) != (side, side)):
            raise ModelError(
                f"the preprocessor config makes frames of {height} x {width} pixels, but the model takes {side} x "
                f"{side}: fetch the checkpoint again"
            )
        # Where it does not come out even, the pixel more stays below and to the right, as in the stock processor.
        top, left = (height - side) // 2, (width - side) // 2
        return prepare_pixels(frames, spec)[None, ..., top : top + side, left : left + side].contiguous()

    @property
    def _square(self) -> int:
        return int(self.model.config.vision_config.image_size)

    def reserved(self, tokenizer: Any) -> tuple[str, ...]:
        """See `PromptFormat.reserved`."""
        return (tokenizer.convert_ids_to_tokens(self.model.config.image_token_index),)

    def render_video(self, tokenizer: Any, video: VideoInput) -> str:
        """See `PromptFormat.render_video`."""
        return self.video_token(tokenizer) * sum(self.feature_count(grid) for grid in self.grids(video.pixels))

    def media_kwargs(self, video: VideoInput) -> dict[str, Tensor]:
        """See `PromptFormat.media_kwargs`."""
        return {Arg.VIDEO_PIXELS: video.pixels}
