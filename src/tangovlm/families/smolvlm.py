"""SmolVLM2: SigLIP tower without a head, squares of patches folded into one token, frames with their times in text."""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..registry import register_family
from ..signals.saliency import pool_means
from . import chunks
from .attention import LayerAttention
from .call import Found, Grid
from .inputs import PixelSpec, prepare_pixels, whole
from .pictures import Wording
from .taps import Tap
from .tiled import Tiled
from .versions import divided, in_a_row

_MEAN = (0.5, 0.5, 0.5)
_ONES: tuple[str, ...] = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


@register_family("SmolVLMForConditionalGeneration")
class SmolVLM(Tiled):
    """`SmolVLMForConditionalGeneration`.

    Saliency is the attention that patches get in the tower's last layer, averaged over heads and queries. It and keys
    are averaged over the patches that become one token. There is no class token and no pooling head, and so no global
    frame feature.

    Frames and images are tiles in one row; see `pictures` for how they are told apart. The processor writes
    ``Frame from 00:01:`` in front of each frame, behind a sentence with their number and the video's length. Pixels are
    ``(B, n, 3, height, width)``, where rows with fewer pictures are filled up with zeros, which stock code leaves out.
    """

    name = "smolvlm2"
    checkpoints = (
        "HuggingFaceTB/SmolVLM2-256M-Video-Instruct",
        "HuggingFaceTB/SmolVLM2-500M-Video-Instruct",
        "HuggingFaceTB/SmolVLM2-2.2B-Instruct",
    )
    default_frames = 32
    gives = frozenset({"saliency", "timestamps", "keys"})
    saliency_kinds = ("attn",)
    wording = Wording(shortest=11, longest=24, before=2, behind=3, numbered=False)

    @property
    def side(self) -> int:
        """Patches along a side of a tile."""
        vision = self.model.config.vision_config
        return int(vision.image_size // vision.patch_size)

    @property
    def tile(self) -> Grid:
        """See `Tiled.tile`."""
        side = self.side // self.model.config.scale_factor
        return Grid(1, side, side)

    @property
    def tile_size(self) -> tuple[int, int]:
        """See `Tiled.tile_size`."""
        side = int(self.model.config.vision_config.image_size)
        return side, side

    def tiles(self, *args: Any, **kwargs: Any) -> list[int]:
        """See `Tiled.tiles`."""
        pixels = args[0] if args else kwargs["pixel_values"]
        self.check_size(pixels)
        counts: list[int] = _real(pixels).sum(dim=1).tolist()
        return counts

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
        kwargs = dict(zip(("pixel_values", "pixel_attention_mask"), args, strict=False)) | kwargs
        pixels, mask = kwargs.pop("pixel_values"), kwargs.pop("pixel_attention_mask", None)
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

    def frame_size(self, config: Mapping[str, Any], height: int, width: int) -> tuple[int, int]:
        """See `Family.frame_size`: the longer side as the checkpoint has it for videos, the other one even."""
        sampling = config.get("video_sampling")
        size = (sampling.get("video_size") if isinstance(sampling, Mapping) else None) or config.get("size")
        given = size.get("longest_edge") if isinstance(size, Mapping) else None
        longest = self.tile_size[0] if given is None else whole("longest_edge", given)
        # In the order of the stock processor, as the last bit may decide over a pixel.
        ratio = width / height
        return (_even(longest / ratio), longest) if width >= height else (longest, _even(longest * ratio))

    def pixels(self, frames: Tensor, config: Mapping[str, Any]) -> Tensor:
        """``(1, T, 3, height, width)`` float32: shrunk with their aspect ratio, then made a square of a tile's size."""
        # Torch has no Lanczos filter, which checkpoints name: like the stock processor on a GPU, take the bicubic one.
        known = {name: value for name, value in config.items() if name != "resample"}
        spec = PixelSpec.from_config(known, PixelSpec(self.tile_size, _MEAN, _MEAN), self.tile_size)
        size = self.frame_size(config, *frames.shape[-2:])
        if tuple(frames.shape[-2:]) != size:
            whole = PixelSpec(size, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), rescale=1.0)
            frames = prepare_pixels(frames, whole).to(torch.uint8)
        return prepare_pixels(frames, spec)[None]

    def template(self, _given: str | None) -> str:
        """See `Written.template`: the stock processor takes one of its own where there is a video, and so do we."""
        from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE

        template: str = DEFAULT_CHAT_TEMPLATE
        return template

    def video_token(self, tokenizer: Any) -> str:
        """See `Written.video_token`."""
        return getattr(tokenizer, "video_token", None) or "<video>"

    def reserved(self, tokenizer: Any) -> tuple[str, ...]:
        """See `Written.reserved`."""
        mark = getattr(tokenizer, "fake_image_token", None) or "<fake_token_around_image>"
        whole = getattr(tokenizer, "global_image_token", None) or "<global-img>"
        return mark, whole, str(tokenizer.convert_ids_to_tokens(self.placeholder))

    def written(self, tokenizer: Any, _pixels: Tensor, seconds: Tensor) -> str:
        """See `Written.written`."""
        mark, whole, image = self.reserved(tokenizer)
        return video_text(seconds.tolist(), mark + whole + image * self.tile.tokens + mark)

    def arguments(self, pixels: Tensor, _seconds: Tensor) -> dict[str, Tensor]:
        """See `Written.arguments`."""
        return {"pixel_values": pixels}

    def collate(self, videos: Sequence[Sequence[Mapping[str, Tensor]]]) -> dict[str, Tensor]:
        """See `Written.collate`: frames of a prompt in a row, behind them zeros, which stock code takes out."""
        if sum(map(len, videos)) <= 1:
            return super().collate(videos)
        rows = [torch.cat([video["pixel_values"] for video in prompt], dim=1) for prompt in videos if prompt]
        longest = max(row.shape[1] for row in rows)
        padded = [functional.pad(row, (0, 0, 0, 0, 0, 0, 0, longest - row.shape[1])) for row in rows]
        return {"pixel_values": torch.cat(padded)}


def video_text(seconds: Sequence[float], picture: str) -> str:
    """What stands for a video in a prompt, as the stock processor writes it.

    Parameters
    ----------
    seconds: of the frames; the last one passes for the length of the video.
    picture: placeholders of a frame with their marks.
    """
    length = timedelta(seconds=int(seconds[-1]))
    start = (
        f"You are provided the following series of {in_words(len(seconds))} frames from a {length} [H:MM:SS] video.\n"
    )
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
