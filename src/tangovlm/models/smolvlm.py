"""SmolVLM2: SigLIP tower without a head, squares of patches folded into one token, frames with their times in text."""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..inputs.number_words import in_words
from ..inputs.pixels import PixelSpec, flag, prepare_pixels, unresized, whole
from ..registry import register_family
from .common import chunks
from .common.encoding import ChunkedEncoding, cell_colors
from .common.image_tiles import ImageTileFamily, ImageTileLayout, ImageTilePrompt, ImageTileSignals
from .common.layer_attention import LayerAttention
from .common.layout import Grid
from .common.part import Part
from .common.prompt_format import VideoInput
from .common.tile_runs import FrameText
from .common.transformers_compat import Arg, concatenated, encodes_first, split_like

_MEAN = (0.5, 0.5, 0.5)
# The maximum side of a frame in the stock processor, with any checkpoint.
_LONGEST = 4096


class FramesWithTimes(ImageTilePrompt):
    """Frames as in ``Frame from 00:01:<fake_token_around_image>...``, after a sentence with their number.

    Frames are scaled with their aspect ratio first, then to the square of a tile.
    """

    def frame_size(
        self, config: Mapping[str, Any], height: int, width: int, _frames: int | None = None
    ) -> tuple[int, int]:
        """See `PromptFormat.frame_size`: the longer side from the config, the other one even.

        As in the stock processor `size` takes precedence over the `video_size` of `video_sampling`.
        """
        tile = self.family.tile_size
        if not flag(config, "do_resize"):
            if (height, width) != tile:
                raise unresized(height, width, f"{tile[0]} x {tile[1]} pixels")
            return tile
        sampling = config.get("video_sampling")
        size = config.get("size") or (sampling.get("video_size") if isinstance(sampling, Mapping) else None)
        if isinstance(size, Mapping) and size.get("longest_edge") is None:
            return PixelSpec.from_config({"size": size}, PixelSpec(tile, _MEAN, _MEAN)).size
        given = size.get("longest_edge") if isinstance(size, Mapping) else None
        longest = tile[0] if given is None else min(_LONGEST, whole("longest_edge", given))
        # In the order of the stock processor, as the last bit may decide over a pixel.
        ratio = width / height
        return (_even(longest / ratio), longest) if width >= height else (longest, _even(longest * ratio))

    def pixels(self, frames: Tensor, config: Mapping[str, Any], *, resized: bool = False) -> Tensor:
        """See `PromptFormat.pixels`: ``(1, T, 3, height, width)`` float32."""
        default = PixelSpec(self.family.tile_size, _MEAN, _MEAN, mode="lanczos")
        spec = PixelSpec.from_config(config, default, self.family.tile_size)
        height, width = frames.shape[-2:]
        size = (height, width) if resized else self.frame_size(config, height, width)
        if (height, width) != size:
            first = PixelSpec(size, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), rescale=1.0, mode=spec.mode)
            # Frame by frame: all of them in their first size may be gigabytes.
            return torch.stack([self._squared(prepare_pixels(frame[None], first), spec) for frame in frames])[None]
        return prepare_pixels(frames, spec)[None]

    @staticmethod
    def _squared(frame: Tensor, spec: PixelSpec) -> Tensor:
        return prepare_pixels(frame.to(torch.uint8), spec)[0]

    def template(self, _template: str | None) -> str:
        """See `PromptFormat.template`: for videos the stock processor has a template of its own."""
        from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE

        template: str = DEFAULT_CHAT_TEMPLATE
        return template

    def reserved(self, tokenizer: Any) -> tuple[str, ...]:
        """See `PromptFormat.reserved`."""
        mark = getattr(tokenizer, "fake_image_token", None) or "<fake_token_around_image>"
        whole = getattr(tokenizer, "global_image_token", None) or "<global-img>"
        return mark, whole, str(tokenizer.convert_ids_to_tokens(self.family.layout.placeholder))

    def render_video(self, tokenizer: Any, video: VideoInput) -> str:
        """See `PromptFormat.render_video`."""
        mark, whole, image = self.reserved(tokenizer)
        seconds, picture = video.times.tolist(), mark + whole + image * self.family.tile.tokens + mark
        length = seconds[-1] if video.duration_s is None else video.duration_s
        # For shorter videos as well: the stock processor counts their padding, too.
        return video_text(seconds, picture, length, video.most_frames)

    def collate(self, videos: Sequence[Sequence[Mapping[str, Tensor]]]) -> dict[str, Tensor]:
        """See `PromptFormat.collate`: one batch entry per video, padded with zeros, which stock code drops."""
        entries = [video[Arg.PIXELS] for prompt in videos for video in prompt]
        if len(entries) <= 1:
            return super().collate(videos)
        longest = max(entry.shape[1] for entry in entries)
        padded = [functional.pad(entry, (0, 0, 0, 0, 0, 0, 0, longest - entry.shape[1])) for entry in entries]
        return {Arg.PIXELS: torch.cat(padded)}


class PaddedTiles(ImageTileLayout):
    """Pixels are ``(entries, n, 3, height, width)``, one entry per video or prompt.

    Entries with fewer pictures are padded with zeros, which stock code leaves out.
    """

    def tiles(self, *args: Any, **kwargs: Any) -> list[int]:
        """See `ImageTileLayout.tiles`."""
        pixels = args[0] if args else kwargs[Arg.PIXELS]
        self.check_size(pixels)
        counts: list[int] = _is_picture(pixels).sum(dim=1).tolist()
        return counts

    def copies(self, prompts: int, *args: Any, **kwargs: Any) -> int:
        """See `ImageTileLayout.copies`: releases that do not encode first repeat each entry for every beam."""
        pixels = args[0] if args else kwargs[Arg.PIXELS]
        copies, rest = divmod(len(pixels), prompts)
        if rest or copies < 2 or encodes_first(self.model):
            return 1
        alike = all(torch.equal(pixels[::copies], pixels[number::copies]) for number in range(1, copies))
        return copies if alike else 1


class LastLayerSignals(ImageTileSignals):
    """Saliency and keys of the tower's last layer.

    There is no class token and no pooling head, and so there are no frame features.
    """

    provides = frozenset({"saliency", "timestamps", "keys"})

    @property
    def layer(self) -> LayerAttention:
        """See `LayerSignals.layer`."""
        attention = self.family.encoder.vision_model.encoder.layers[-1].self_attn
        return LayerAttention(attention.q_proj, attention.k_proj, attention.num_heads, self.pool)


class PaddedTilesEncoding(ChunkedEncoding):
    """Tiles do not attend to each other; those of a chunk are encoded as one batch entry."""

    family: "SmolVLM"

    def frame_bytes(self, _grids: Sequence[Grid]) -> int:
        """See `ChunkedEncoding.frame_bytes`: the MLP of a layer of the tower."""
        vision = self.model.config.vision_config
        width = 2 * vision.hidden_size + 2 * vision.intermediate_size
        return int(self.family.side**2 * width * self.family.encoder.dtype.itemsize)

    def encode_chunks(
        self, original: Callable[..., Any], bounds: Sequence[tuple[int, int]], *args: Any, **kwargs: Any
    ) -> Any:
        """See `ChunkedEncoding.encode_chunks`."""
        kwargs = dict(zip((Arg.PIXELS, Arg.PIXEL_MASK), args, strict=False)) | kwargs
        pixels, mask = kwargs.pop(Arg.PIXELS), kwargs.pop(Arg.PIXEL_MASK, None)
        pictures = _is_picture(pixels)
        counts, tiles = pictures.sum(dim=1).tolist(), pixels[pictures]
        masks = None if mask is None else mask[pictures]

        def make(start: int, stop: int) -> Any:
            return original(tiles[None, start:stop], None if masks is None else masks[None, start:stop], **kwargs)

        kind, joined, pooled = chunks.collect(make, bounds, kwargs)
        made = kind(**joined)
        features = torch.cat([concatenated(part) for part in pooled])
        made.pooler_output = split_like(features, [count * self.family.tile.tokens for count in counts], pooled[0])
        return made

    def colors(self, *args: Any, **kwargs: Any) -> list[Tensor]:
        """See `ChunkedEncoding.colors`."""
        pixels = args[0] if args else kwargs[Arg.PIXELS]
        return cell_colors(pixels[_is_picture(pixels)], _MEAN)

    def of_frames(self, chosen: Tensor, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """See `ChunkedEncoding.of_frames`: one batch entry, without the padding of tiles."""
        named = dict(zip((Arg.PIXELS, Arg.PIXEL_MASK), args, strict=False)) | kwargs
        pictures, chosen = _is_picture(named[Arg.PIXELS]), chosen.to(named[Arg.PIXELS].device)
        for name in (Arg.PIXELS, Arg.PIXEL_MASK):
            if named.get(name) is not None:
                named[name] = named[name][pictures][chosen][None]
        return (), named

    def spread(self, output: Any, rows: Tensor, *args: Any, **kwargs: Any) -> Any:
        """See `ChunkedEncoding.spread`."""
        pixels, tokens = args[0] if args else kwargs[Arg.PIXELS], self.family.tile.tokens
        tiles = concatenated(output.pooler_output)
        # Some releases have an axis for tiles.
        chosen = tiles.reshape(-1, tokens, tiles.shape[-1])[rows.to(tiles.device)]
        features = chosen.reshape(-1, *tiles.shape[1:])
        made = type(output)()
        counts = _is_picture(pixels).sum(dim=1).tolist()
        made.pooler_output = split_like(features, [count * tokens for count in counts], output.pooler_output)
        return made


@register_family("SmolVLMForConditionalGeneration")
class SmolVLM(ImageTileFamily):
    """`SmolVLMForConditionalGeneration`.

    Frames and images are tiles in one sequence; see `tile_runs` for how they are distinguished.
    """

    name = "smolvlm2"
    checkpoints = (
        "HuggingFaceTB/SmolVLM2-256M-Video-Instruct",
        "HuggingFaceTB/SmolVLM2-500M-Video-Instruct",
        "HuggingFaceTB/SmolVLM2-2.2B-Instruct",
    )
    default_frames = 32
    frame_text = FrameText(shortest=11, longest=24, prefix=2, suffix=3, numbered=False)

    prompt = Part(FramesWithTimes)
    layout = Part(PaddedTiles)
    signals = Part(LastLayerSignals)
    encoding = Part(PaddedTilesEncoding)

    @property
    def side(self) -> int:
        """See `ImageTileFamily.side`."""
        vision = self.model.config.vision_config
        return int(vision.image_size // vision.patch_size)

    @property
    def factor(self) -> int:
        """See `ImageTileFamily.factor`."""
        return int(self.model.config.scale_factor)

    @property
    def tile_size(self) -> tuple[int, int]:
        """See `ImageTileFamily.tile_size`."""
        side = int(self.model.config.vision_config.image_size)
        return side, side


def video_text(seconds: Sequence[float], picture: str, length_s: float, count: int) -> str:
    """The text of a video in a prompt, as the stock processor writes it.

    Parameters
    ----------
    seconds: times of the frames.
    picture: placeholders of a frame with their marks.
    length_s: length of the whole video.
    count: number of frames in the text.
    """
    length = timedelta(seconds=int(length_s))
    start = f"You are provided the following series of {in_words(count)} frames from a {length} [H:MM:SS] video.\n"
    frames = [f"\nFrame from {int(time // 60):02d}:{int(time % 60):02d}:{picture}" for time in seconds]
    return start + "".join(frames) + "\n\n"


def _is_picture(pixels: Tensor) -> Tensor:
    """Which entries are pictures and not padding: ``(B, n)`` bool; if all are padding, stock code keeps the first."""
    # Padding is zero everywhere, so all pixels of a picture are read only if its first one is zero. Stock code reads
    # from the device as well.
    real = (pixels[..., 0, 0] != 0).any(dim=2)
    doubtful = ~real
    if doubtful.any():
        real[doubtful] = (pixels[doubtful] != 0).flatten(1).any(dim=1)
    real[0, 0] |= ~real.any()
    return real


def _even(length: float) -> int:
    """The length in whole pixels, at least one, rounded up to an even number."""
    return max(1, int(length) + int(length) % 2)
