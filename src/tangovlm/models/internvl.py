"""InternVL 3 and 3.5: InternViT tower with a class token, squares of patches folded into one token."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from ..inputs.pixels import PixelSpec, flag, prepare_pixels, unresized
from ..registry import register_family
from .common import chunks
from .common.image_tiles import ImageTileFamily
from .common.layer_attention import LayerAttention, layer_of, listen_to_output
from .common.layout import Found, Grid
from .common.prompt_format import VideoInput
from .common.saliency import pool_means
from .common.taps import Tap
from .common.tile_runs import Wording
from .common.transformers_compat import Arg

_PIXELS = PixelSpec(size=(448, 448), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@register_family("InternVLForConditionalGeneration")
class InternVL(ImageTileFamily):
    """`InternVLForConditionalGeneration`, with a text model like Qwen2 (InternVL 3) or Qwen3 (3.5).

    Saliency is the attention that patches get in the last layer that the features use, averaged over heads and queries,
    without the class token, whose share is dealt out. Frame features are the class token behind the tower. Both, and
    keys, are averaged over the patches that become one token (2 x 2).

    Frames and images are tiles in one row; see `pictures` for how they are told apart. The processor writes
    ``Frame1: <img>...</img>``.
    """

    name = "internvl"
    checkpoints = (
        "OpenGVLab/InternVL3-1B-hf",
        "OpenGVLab/InternVL3-2B-hf",
        "OpenGVLab/InternVL3-8B-hf",
        "OpenGVLab/InternVL3-14B-hf",
        "OpenGVLab/InternVL3-38B-hf",
        "OpenGVLab/InternVL3-78B-hf",
        "OpenGVLab/InternVL3_5-1B-HF",
        "OpenGVLab/InternVL3_5-2B-HF",
        "OpenGVLab/InternVL3_5-4B-HF",
        "OpenGVLab/InternVL3_5-8B-HF",
        "OpenGVLab/InternVL3_5-14B-HF",
        "OpenGVLab/InternVL3_5-38B-HF",
    )
    default_frames = 32
    saliency_kinds = ("attn",)
    wording = Wording(shortest=5, longest=16, before=1, behind=2, numbered=True)

    @property
    def side(self) -> int:
        """Patches along a side of a tile."""
        vision = self.model.config.vision_config
        return int(vision.image_size[0] // vision.patch_size[0])

    @property
    def factor(self) -> int:
        """Patches along a side of a token."""
        return int(1 / self.model.config.downsample_ratio)

    @property
    def tile(self) -> Grid:
        """See `ImageTileFamily.tile`."""
        return Grid(1, self.side // self.factor, self.side // self.factor)

    @property
    def tile_size(self) -> tuple[int, int]:
        """See `ImageTileFamily.tile_size`."""
        height, width = self.model.config.vision_config.image_size
        return int(height), int(width)

    def tiles(self, *args: Any, **kwargs: Any) -> list[int]:
        """See `ImageTileFamily.tiles`: pixels are ``(tiles, 3, height, width)``, those of all prompts in a row."""
        pixels = args[0] if args else kwargs[Arg.PIXELS]
        self.check_size(pixels)
        return [len(pixels)]

    def grids(self, *args: Any, **kwargs: Any) -> list[Grid]:
        """See `Family.grids`."""
        return [self.tile._replace(frames=sum(self.tiles(*args, **kwargs)))]

    def frame_bytes(self, _grids: Sequence[Grid]) -> int:
        """See `Family.frame_bytes`: the MLP of a layer of the tower, or the projector where it takes more."""
        vision, text = self.model.config.vision_config, self.model.config.text_config
        width = max(2 * vision.hidden_size + 2 * vision.intermediate_size, vision.hidden_size + 3 * text.hidden_size)
        return int(self.side**2 * width * self.encoder.dtype.itemsize)

    def encode_chunks(
        self, original: Callable[..., Any], bounds: Sequence[tuple[int, int]], *args: Any, **kwargs: Any
    ) -> Any:
        """See `Family.encode_chunks`: tiles do not see each other."""
        pixels, args = (args[0], args[1:]) if args else (kwargs.pop(Arg.PIXELS), ())
        kind, joined, pooled = chunks.collect(
            lambda start, stop: original(pixels[start:stop], *args, **kwargs), bounds, kwargs
        )
        return kind(**joined, pooler_output=chunks.join(pooled))

    def listen(self, found: Found, needs: frozenset[str], _kind: str) -> list[Tap]:
        """See `Family.listen`."""
        tower = self.encoder.vision_tower
        attention = layer_of(self.model.config.vision_feature_layer, tower.encoder.layer).attention
        layer = LayerAttention(attention.q_norm, attention.k_norm, attention.num_heads, self.pool, leading=1)
        taps = layer.listen(found, needs)
        if "frame_features" in needs:
            taps.append(listen_to_output(tower.layernorm, found, "frame_features", lambda hidden: hidden[:, 0]))
        return taps

    def pool(self, values: Tensor) -> Tensor:
        """Values of patches ``(F, side * side, C)`` averaged over those of a token: ``(F, H, W, C)``."""
        return pool_means(values, self.side, self.factor)

    # --- from a file to inputs ----------------------------------------------------------------------------------

    def frame_size(
        self, config: Mapping[str, Any], height: int, width: int, _frames: int | None = None
    ) -> tuple[int, int]:
        """See `Family.frame_size`: that of a tile, which is all that the model takes."""
        high, wide = self.tile_size
        if not flag(config, "do_resize") and (height, width) != (high, wide):
            raise unresized(height, width, f"{high} x {wide} pixels")
        return high, wide

    def pixels(self, frames: Tensor, config: Mapping[str, Any], *, resized: bool = False) -> Tensor:
        """``(T, 3, height, width)`` float32."""
        del resized
        size = self.frame_size(config, *frames.shape[-2:])
        return prepare_pixels(frames, PixelSpec.from_config(config, _PIXELS, size))

    def video_token(self, tokenizer: Any) -> str:
        """See `PromptFormat.video_token`."""
        return getattr(tokenizer, "video_token", None) or "<video>"

    def reserved(self, tokenizer: Any) -> tuple[str, ...]:
        """See `PromptFormat.reserved`."""
        before = getattr(tokenizer, "start_image_token", None) or "<img>"
        behind = getattr(tokenizer, "end_image_token", None) or "</img>"
        return before, str(tokenizer.convert_ids_to_tokens(self.placeholder)), behind

    def render_video(self, tokenizer: Any, video: VideoInput) -> str:
        """See `PromptFormat.render_video`: each frame has its number in front."""
        before, context, behind = self.reserved(tokenizer)
        picture = before + context * self.tile.tokens + behind
        return "\n".join(f"Frame{number + 1}: {picture}" for number in range(video.frames))

    def media_kwargs(self, video: VideoInput) -> dict[str, Tensor]:
        """See `PromptFormat.media_kwargs`."""
        return {Arg.PIXELS: video.pixels}
