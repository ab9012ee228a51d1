"""InternVL 3 and 3.5: InternViT tower with a class token, squares of patches folded into one token."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from ..inputs.pixels import PixelSpec, flag, prepare_pixels, unresized
from ..registry import register_family
from .common import chunks
from .common.encoding import ChunkedEncoding, cell_colors, with_pixels
from .common.image_tiles import ImageTileFamily, ImageTileLayout, ImageTilePrompt, ImageTileSignals
from .common.layer_attention import LayerAttention, layer_of, output_hook
from .common.layout import Grid
from .common.part import Part
from .common.prompt_format import VideoInput
from .common.signals import ForwardHook, SignalParts
from .common.tile_runs import FrameText
from .common.transformers_compat import Arg

_PIXELS = PixelSpec(size=(448, 448), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


class NumberedFrames(ImageTilePrompt):
    """Frames as in ``Frame1: <img><IMG_CONTEXT>...</img>``, each of the size of a tile."""

    def frame_size(
        self, config: Mapping[str, Any], height: int, width: int, _frames: int | None = None
    ) -> tuple[int, int]:
        """See `PromptFormat.frame_size`: that of a tile, the only one that the model accepts."""
        high, wide = self.family.tile_size
        if not flag(config, "do_resize") and (height, width) != (high, wide):
            raise unresized(height, width, f"{high} x {wide} pixels")
        return high, wide

    def pixels(self, frames: Tensor, config: Mapping[str, Any], *, resized: bool = False) -> Tensor:
        """See `PromptFormat.pixels`: ``(T, 3, height, width)`` float32."""
        del resized
        size = self.frame_size(config, *frames.shape[-2:])
        return prepare_pixels(frames, PixelSpec.from_config(config, _PIXELS, size))

    def reserved(self, tokenizer: Any) -> tuple[str, ...]:
        """See `PromptFormat.reserved`."""
        start = getattr(tokenizer, "start_image_token", None) or "<img>"
        end = getattr(tokenizer, "end_image_token", None) or "</img>"
        return start, str(tokenizer.convert_ids_to_tokens(self.family.layout.placeholder)), end

    def render_video(self, tokenizer: Any, video: VideoInput) -> str:
        """See `PromptFormat.render_video`."""
        start, context, end = self.reserved(tokenizer)
        picture = start + context * self.family.tile.tokens + end
        return "\n".join(f"Frame{number + 1}: {picture}" for number in range(video.frames))


class TileSequence(ImageTileLayout):
    """Pixels are ``(tiles, 3, height, width)``, those of all prompts in one sequence."""

    def tiles(self, *args: Any, **kwargs: Any) -> list[int]:
        """See `ImageTileLayout.tiles`."""
        pixels = args[0] if args else kwargs[Arg.PIXELS]
        self.check_size(pixels)
        return [len(pixels)]


class InternViTSignals(ImageTileSignals):
    """Signals of the last layer that the features use; frame features are the class token after the tower.

    The class token's share of the saliency is distributed over the patches. Saliency and keys are averaged over the
    patches that become one token (2 x 2).
    """

    @property
    def layer(self) -> LayerAttention:
        """See `LayerSignals.layer`."""
        layers = self.family.encoder.vision_tower.encoder.layer
        attention = layer_of(self.model.config.vision_feature_layer, layers).attention
        return LayerAttention(attention.q_norm, attention.k_norm, attention.num_heads, self.pool, leading=1)

    def hooks(self, collected: SignalParts, needs: frozenset[str], kind: str) -> list[ForwardHook]:
        """See `EncoderSignals.hooks`."""
        hooks = super().hooks(collected, needs, kind)
        if "frame_features" in needs:
            norm = self.family.encoder.vision_tower.layernorm
            hooks.append(output_hook(norm, collected, "frame_features", lambda hidden: hidden[:, 0]))
        return hooks


class TileSequenceEncoding(ChunkedEncoding):
    """Tiles do not attend to each other."""

    family: "InternVL"

    def frame_bytes(self, _grids: Sequence[Grid]) -> int:
        """See `ChunkedEncoding.frame_bytes`: the MLP of a layer of the tower, or the projector if it needs more."""
        vision, text = self.model.config.vision_config, self.model.config.text_config
        width = max(2 * vision.hidden_size + 2 * vision.intermediate_size, vision.hidden_size + 3 * text.hidden_size)
        return int(self.family.side**2 * width * self.family.encoder.dtype.itemsize)

    def encode_chunks(
        self, original: Callable[..., Any], bounds: Sequence[tuple[int, int]], *args: Any, **kwargs: Any
    ) -> Any:
        """See `ChunkedEncoding.encode_chunks`."""
        pixels, args = (args[0], args[1:]) if args else (kwargs.pop(Arg.PIXELS), ())
        kind, joined, pooled = chunks.collect(
            lambda start, stop: original(pixels[start:stop], *args, **kwargs), bounds, kwargs
        )
        return kind(**joined, pooler_output=chunks.join(pooled))

    def colors(self, *args: Any, **kwargs: Any) -> list[Tensor]:
        """See `ChunkedEncoding.colors`."""
        return cell_colors(args[0] if args else kwargs[Arg.PIXELS], _PIXELS.std)

    def of_frames(self, chosen: Tensor, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """See `ChunkedEncoding.of_frames`."""
        pixels = args[0] if args else kwargs[Arg.PIXELS]
        return with_pixels(pixels[chosen.to(pixels.device)], args, kwargs, Arg.PIXELS)

    def spread(self, output: Any, rows: Tensor, *_args: Any, **_kwargs: Any) -> Any:
        """See `ChunkedEncoding.spread`."""
        tiles = output.pooler_output
        return type(output)(pooler_output=tiles[rows.to(tiles.device)])


@register_family("InternVLForConditionalGeneration")
class InternVL(ImageTileFamily):
    """`InternVLForConditionalGeneration`, with a text model like Qwen2 (InternVL 3) or Qwen3 (3.5).

    Frames and images are tiles in one sequence; see `tile_runs` for how they are distinguished.
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
    frame_text = FrameText(shortest=5, longest=16, prefix=1, suffix=2, numbered=True)

    prompt = Part(NumberedFrames)
    layout = Part(TileSequence)
    signals = Part(InternViTSignals)
    encoding = Part(TileSequenceEncoding)

    @property
    def side(self) -> int:
        """See `ImageTileFamily.side`."""
        vision = self.model.config.vision_config
        return int(vision.image_size[0] // vision.patch_size[0])

    @property
    def factor(self) -> int:
        """See `ImageTileFamily.factor`."""
        return int(1 / self.model.config.downsample_ratio)

    @property
    def tile_size(self) -> tuple[int, int]:
        """See `ImageTileFamily.tile_size`."""
        height, width = self.model.config.vision_config.image_size
        return int(height), int(width)
