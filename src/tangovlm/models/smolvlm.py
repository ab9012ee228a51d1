"""SmolVLM2: SigLIP tower without a head, squares of patches folded into one token, frames with their times in text."""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..inputs.pixels import PixelSpec, flag, prepare_pixels, unresized, whole
from ..registry import register_family
from .common import chunks
from .common.image_tiles import ImageTileFamily
from .common.layer_attention import LayerAttention
from .common.layout import Found, Grid
from .common.prompt_format import VideoInput
from .common.saliency import pool_means
from .common.taps import Tap
from .common.tile_runs import Wording
from .common.transformers_compat import Arg, divided, encodes_first, in_a_row

_MEAN = (0.5, 0.5, 0.5)
# No side of a frame is longer, whatever a checkpoint says.
_LONGEST = 4096
_ONES: tuple[str, ...] = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


@register_family("SmolVLMForConditionalGeneration")
class SmolVLM(ImageTileFamily):
    """`SmolVLMForConditionalGeneration`.

    Saliency is the attention that patches get in the tower's last layer, averaged over heads and queries. It and keys
    are averaged over the patches that become one token. There is no class token and no pooling head, and so no global
    frame feature.

    Frames and images are tiles in one row; see `pictures` for how they are told apart. The processor writes
    ``Frame from 00:01:`` in front of each frame, behind a sentence with their number and the video's length. Pixels are
    ``(rows, n, 3, height, width)``, a row a video or a prompt, where rows with fewer pictures are filled up with zeros,
    which stock code leaves out.
    """

    name = "smolvlm2"
    checkpoints = (
        "HuggingFaceTB/SmolVLM2-256M-Video-Instruct",
        "HuggingFaceTB/SmolVLM2-500M-Video-Instruct",
        "HuggingFaceTB/SmolVLM2-2.2B-Instruct",
    )
    default_frames = 32
    provides = frozenset({"saliency", "timestamps", "keys"})
    saliency_kinds = ("attn",)
    wording = Wording(shortest=11, longest=24, before=2, behind=3, numbered=False)

    @property
    def side(self) -> int:
        """Patches along a side of a tile."""
        vision = self.model.config.vision_config
        return int(vision.image_size // vision.patch_size)

    @property
    def tile(self) -> Grid:
        """See `ImageTileFamily.tile`."""
        side = self.side // self.model.config.scale_factor
        return Grid(1, side, side)

    @property
    def tile_size(self) -> tuple[int, int]:
        """See `ImageTileFamily.tile_size`."""
        side = int(self.model.config.vision_config.image_size)
        return side, side

    def tiles(self, *args: Any, **kwargs: Any) -> list[int]:
        """See `ImageTileFamily.tiles`."""
        pixels = args[0] if args else kwargs[Arg.PIXELS]
        self.check_size(pixels)
        counts: list[int] = _real(pixels).sum(dim=1).tolist()
        return counts

    def copies(self, prompts: int, *args: Any, **kwargs: Any) -> int:
        """See `ImageTileFamily.copies`: releases that do not encode first repeat each row of pixels for every beam."""
        pixels = args[0] if args else kwargs[Arg.PIXELS]
        copies, rest = divmod(len(pixels), prompts)
        if rest or copies < 2 or encodes_first(self.model):
            return 1
        alike = all(torch.equal(pixels[::copies], pixels[number::copies]) for number in range(1, copies))
        return copies if alike else 1

    def grids(self, *args: Any, **kwargs: Any) -> list[Grid]:
        """See `Family.grids`."""
        return [self.tile._replace(frames=sum(self.tiles(*args, **kwargs)))]

    def frame_bytes(self, _grids: Sequence[Grid]) -> int:
        """See `Family.frame_bytes`: the MLP of a layer of the tower."""
        vision = self.model.config.vision_config
        width = 2 * vision.hidden_size + 2 * vision.intermediate_size
        return int(self.side**2 * width * self.encoder.dtype.itemsize)

    def encode_chunks(
        self, original: Callable[..., Any], bounds: Sequence[tuple[int, int]], *args: Any, **kwargs: Any
    ) -> Any:
        """See `Family.encode_chunks`: the tiles of a chunk pass for one row."""
        kwargs = dict(zip((Arg.PIXELS, Arg.PIXEL_MASK), args, strict=False)) | kwargs
        pixels, mask = kwargs.pop(Arg.PIXELS), kwargs.pop(Arg.PIXEL_MASK, None)
        real = _real(pixels)
        counts, tiles = real.sum(dim=1).tolist(), pixels[real]
        shown = None if mask is None else mask[real]

        def make(start: int, stop: int) -> Any:
            return original(tiles[None, start:stop], None if shown is None else shown[None, start:stop], **kwargs)

        kind, joined, pooled = chunks.collect(make, bounds, kwargs)
        made = kind(**joined)
        rows = torch.cat([in_a_row(part) for part in pooled])
        made.pooler_output = divided(rows, [count * self.tile.tokens for count in counts], pooled[0])
        return made

    def listen(self, found: Found, needs: frozenset[str], _kind: str) -> list[Tap]:
        """See `Family.listen`."""
        attention = self.encoder.vision_model.encoder.layers[-1].self_attn
        return LayerAttention(attention.q_proj, attention.k_proj, attention.num_heads, self.pool).listen(found, needs)

    def pool(self, values: Tensor) -> Tensor:
        """Values of patches ``(F, side * side, C)`` averaged over those of a token: ``(F, H, W, C)``."""
        return pool_means(values, self.side, self.model.config.scale_factor)

    # --- from a file to inputs ----------------------------------------------------------------------------------

    def frame_size(
        self, config: Mapping[str, Any], height: int, width: int, _frames: int | None = None
    ) -> tuple[int, int]:
        """See `Family.frame_size`: the longer side as the checkpoint has it, the other one even.

        As in the stock processor `size` goes before the `video_size` of `video_sampling`.
        """
        tile = self.tile_size
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
        """``(1, T, 3, height, width)`` float32: scaled with their aspect ratio, then made a square of a tile's size."""
        default = PixelSpec(self.tile_size, _MEAN, _MEAN, mode="lanczos")
        spec = PixelSpec.from_config(config, default, self.tile_size)
        height, width = frames.shape[-2:]
        size = (height, width) if resized else self.frame_size(config, height, width)
        if (height, width) != size:
            first = PixelSpec(size, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), rescale=1.0, mode=spec.mode)
            # Frame by frame, as all of them in their first size may be gigabytes.
            return torch.stack([self._squared(prepare_pixels(frame[None], first), spec) for frame in frames])[None]
        return prepare_pixels(frames, spec)[None]

    @staticmethod
    def _squared(frame: Tensor, spec: PixelSpec) -> Tensor:
        return prepare_pixels(frame.to(torch.uint8), spec)[0]

    def template(self, _given: str | None) -> str:
        """See `PromptFormat.template`: as the stock processor, one of its own where there is a video."""
        from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE

        template: str = DEFAULT_CHAT_TEMPLATE
        return template

    def video_token(self, tokenizer: Any) -> str:
        """See `PromptFormat.video_token`."""
        return getattr(tokenizer, "video_token", None) or "<video>"

    def reserved(self, tokenizer: Any) -> tuple[str, ...]:
        """See `PromptFormat.reserved`."""
        mark = getattr(tokenizer, "fake_image_token", None) or "<fake_token_around_image>"
        whole = getattr(tokenizer, "global_image_token", None) or "<global-img>"
        return mark, whole, str(tokenizer.convert_ids_to_tokens(self.placeholder))

    def render_video(self, tokenizer: Any, video: VideoInput) -> str:
        """See `PromptFormat.render_video`."""
        mark, whole, image = self.reserved(tokenizer)
        seconds, picture = video.times.tolist(), mark + whole + image * self.tile.tokens + mark
        length = seconds[-1] if video.duration_s is None else video.duration_s
        # Also of shorter videos: the stock processor counts what fills them up, too.
        return video_text(seconds, picture, length, video.most_frames)

    def media_kwargs(self, video: VideoInput) -> dict[str, Tensor]:
        """See `PromptFormat.media_kwargs`."""
        return {Arg.PIXELS: video.pixels}

    def collate(self, videos: Sequence[Sequence[Mapping[str, Tensor]]]) -> dict[str, Tensor]:
        """See `PromptFormat.collate`: one row a video, shorter ones filled with zeros, which stock code drops."""
        rows = [video[Arg.PIXELS] for prompt in videos for video in prompt]
        if len(rows) <= 1:
            return super().collate(videos)
        longest = max(row.shape[1] for row in rows)
        padded = [functional.pad(row, (0, 0, 0, 0, 0, 0, 0, longest - row.shape[1])) for row in rows]
        return {Arg.PIXELS: torch.cat(padded)}


def video_text(seconds: Sequence[float], picture: str, length_s: float, count: int) -> str:
    """What stands for a video in a prompt, as the stock processor writes it.

    Parameters
    ----------
    seconds: of the frames.
    picture: placeholders of a frame with their marks.
    length_s: of the whole video.
    count: how many frames it is said to have.
    """
    length = timedelta(seconds=int(length_s))
    start = f"You are provided the following series of {in_words(count)} frames from a {length} [H:MM:SS] video.\n"
    frames = [f"\nFrame from {int(time // 60):02d}:{int(time % 60):02d}:{picture}" for time in seconds]
    return start + "".join(frames) + "\n\n"


def in_words(number: int) -> str:
    """A number of frames as English words; digits from 1000 on.

    >>> in_words(164)
    'one hundred and sixty-four'
    """
    if number < 20:
        return _ONES[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return _TENS[tens - 2] + (f"-{_ONES[ones]}" if ones else "")
    if number < 1000:
        hundreds, rest = divmod(number, 100)
        return f"{_ONES[hundreds]} hundred" + (f" and {in_words(rest)}" if rest else "")
    return str(number)


def _real(pixels: Tensor) -> Tensor:
    """Which pictures are none that only fill a row up: ``(B, n)`` bool; without any stock code takes the first."""
    # Any pixel tells, so that all of a picture is looked at only where its first one is zero. Stock code asks the
    # device, too.
    real = (pixels[..., 0, 0] != 0).any(dim=2)
    doubtful = ~real
    if doubtful.any():
        real[doubtful] = (pixels[doubtful] != 0).flatten(1).any(dim=1)
    real[0, 0] |= ~real.any()
    return real


def _even(length: float) -> int:
    """Whole pixels, at least one, and one more if they are odd."""
    return max(1, int(length) + int(length) % 2)
