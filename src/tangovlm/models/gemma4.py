"""Gemma 4: frames as sequences of patches padded to one length, pooled by position, each with its time as text."""

from collections.abc import Mapping
from copy import copy
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..errors import InputError, ModelError
from ..inputs.frame_size import LIMIT, fit_into, resizes, with_limit
from ..inputs.pixels import PixelSpec, prepare_pixels, whole
from ..registry import register_family
from .common.family import Family
from .common.padded_frames.encoding import PaddedFrameEncoding
from .common.padded_frames.layout import PaddedFrames
from .common.padded_frames.signals import PaddedFrameSignals
from .common.part import Part
from .common.prompt_format import PromptFormat, VideoInput
from .common.transformers_compat import Arg, cache_for, counts_frames, mask_arguments

_PIXELS = PixelSpec(size=(0, 0), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
_TOKENS = (70, 140, 280, 560, 1120)
_VIDEO_NAMES = (Arg.VIDEO_PIXELS, Arg.VIDEO_POSITIONS, Arg.FRAME_COUNTS)
_IMAGE_NAMES = (Arg.PIXELS, Arg.IMAGE_POSITIONS)


class ClockFrames(PromptFormat):
    """Frames as in ``00:01 <|image>...<image|> 00:02 <|image>...<image|>``, with placeholders of videos in between."""

    family: "Gemma4"

    def tokens_of_frame(self, config: Mapping[str, Any]) -> int:
        """The largest number of tokens of a frame.

        Raises
        ------
        ModelError: a number that the stock processor does not accept either.
        """
        given = config.get("max_soft_tokens")
        tokens = _TOKENS[0] if given is None else whole("max_soft_tokens", given)
        if tokens not in _TOKENS:
            raise ModelError(f"the preprocessor config has max_soft_tokens {tokens}: it must be one of {_TOKENS}")
        return tokens

    def limited(self, config: Mapping[str, Any], max_frame_pixels: int) -> Mapping[str, Any]:
        """See `PromptFormat.limited`."""
        return with_limit(config, max_frame_pixels, self.family.token_side)

    def frame_size(
        self, config: Mapping[str, Any], height: int, width: int, _frames: int | None = None
    ) -> tuple[int, int]:
        """See `PromptFormat.frame_size`: whole tokens, as many as fit into the largest number."""
        unit = self.family.token_side
        if not resizes(config, height, width, unit):
            return height, width
        area = self.tokens_of_frame(config) * unit**2
        if (limit := config.get(LIMIT)) is not None:
            area = min(area, whole(LIMIT, limit))
        return fit_into(height, width, unit, area)

    def pixels(self, frames: Tensor, config: Mapping[str, Any], *, resized: bool = False) -> Tensor:
        """See `PromptFormat.pixels`: ``(1, T, 3, height, width)`` float32; `media_kwargs` divides them into patches."""
        height, width = frames.shape[-2:]
        size = (height, width) if resized else self.frame_size(config, height, width)
        return prepare_pixels(frames, PixelSpec.from_config(config, _PIXELS, size))[None]

    def video_token(self, tokenizer: Any) -> str:
        """See `PromptFormat.video_token`; the tokenizers of published checkpoints do not know it as a special one."""
        token = super().video_token(tokenizer)
        if token not in tokenizer.get_added_vocab():
            tokenizer.add_tokens([token], special_tokens=True)
        return token

    def reserved(self, tokenizer: Any) -> tuple[str, ...]:
        """See `PromptFormat.reserved`."""
        config = self.model.config
        ids = (config.image_token_id, config.audio_token_id)
        return tuple(str(tokenizer.convert_ids_to_tokens(number)) for number in ids if number is not None)

    def render_video(self, tokenizer: Any, video: VideoInput) -> str:
        """See `PromptFormat.render_video`."""
        config, unit = self.model.config, self.family.token_side
        begin, end = (str(tokenizer.convert_ids_to_tokens(part)) for part in (config.boi_token_id, config.eoi_token_id))
        tokens = (video.pixels.shape[-2] // unit) * (video.pixels.shape[-1] // unit)
        picture = begin + self.video_token(tokenizer) * tokens + end
        clock = (f"{int(seconds // 60):02d}:{int(seconds % 60):02d}" for seconds in video.times.tolist())
        return " ".join(f"{time} {picture}" for time in clock)

    def media_kwargs(self, video: VideoInput) -> dict[str, Tensor]:
        """See `PromptFormat.media_kwargs`: patches in raster order, padded to the largest number of a frame."""
        side, (frames, _, height, width) = self.family.patch_size, video.pixels.shape[1:]
        rows, columns = height // side, width // side
        split = video.pixels[0].reshape(frames, 3, rows, side, columns, side)
        patches = split.permute(0, 2, 4, 3, 5, 1).reshape(frames, rows * columns, -1)
        axes = torch.meshgrid(torch.arange(columns), torch.arange(rows), indexing="xy")
        positions = torch.stack(axes, dim=-1).view(1, -1, 2).repeat(frames, 1, 1).to(patches.device)
        most = self.tokens_of_frame(self.family.config) * self.family.pool**2
        missing = (0, 0, 0, max(0, most - rows * columns))
        found = {Arg.VIDEO_PIXELS: pad(patches, missing), Arg.VIDEO_POSITIONS: pad(positions, missing, value=-1)}
        if not counts_frames(self.model):
            return {name: value[None] for name, value in found.items()}
        return found | {Arg.FRAME_COUNTS: torch.tensor([frames])}

    def token_types(self, ids: Tensor) -> dict[str, Tensor]:
        """See `PromptFormat.token_types`: some checkpoints attend to a frame in both directions."""
        return {Arg.TOKEN_TYPES: 2 * (ids == self.family.layout.placeholder).int()}


@register_family("Gemma4ForConditionalGeneration")
class Gemma4(Family):
    """`Gemma4ForConditionalGeneration`, with and without inputs of each layer, experts and shared keys and values.

    A layer with a sliding window attends to the last tokens of the shorter sequence, as many as before. A kept token
    keeps its inputs of each layer. In models that attend to a frame in both directions, the kept tokens of a frame do.
    Methods inside the text model are refused, as its layers have windows. Audio is never pruned.
    """

    name = "gemma-4"
    checkpoints = (
        "google/gemma-4-E2B-it",
        "google/gemma-4-E4B-it",
        "google/gemma-4-26B-A4B-it",
        "google/gemma-4-31B-it",
    )
    tested = Family.tested - {"pruning inside"}
    default_frames = 32
    prepares_masks = True
    prunes_images = True
    is_of_images: bool = False
    """Whether a bound family describes images."""
    prompt = Part(ClockFrames)
    layout = Part(PaddedFrames)
    signals = Part(PaddedFrameSignals)
    encoding = Part(PaddedFrameEncoding)

    def of_images(self) -> Family:
        """See `Family.of_images`."""
        images = copy(self)
        images.is_of_images = True
        images.feature_method, images.visual_inputs = "get_image_features", (Arg.PIXELS,)  # type: ignore[misc]
        return images

    @property
    def input_names(self) -> tuple[str, ...]:
        """Arguments of the `feature_method`: pixels, positions and, of videos, numbers of frames."""
        return _IMAGE_NAMES if self.is_of_images else _VIDEO_NAMES

    @property
    def tower(self) -> Any:
        """The vision model."""
        return self.encoder.vision_tower

    @property
    def pool(self) -> int:
        """Side of a token in patches."""
        return int(self.model.config.vision_config.pooling_kernel_size)

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return int(self.model.config.vision_config.patch_size)

    @property
    def token_side(self) -> int:
        """Side of a token in pixels."""
        return self.patch_size * self.pool

    def sides(self, positions: Tensor) -> list[tuple[int, int]]:
        """Rows and columns of tokens of each frame, from the positions ``(F, P, 2)`` of its patches (column, row).

        Raises
        ------
        InputError: they are not those of whole frames.
        """
        counts = (positions != -1).all(dim=-1).sum(dim=1, keepdim=True)
        frames = torch.cat([positions.amax(dim=1) + 1, counts], dim=1).tolist()
        if any(columns * rows != count or rows % self.pool or columns % self.pool for columns, rows, count in frames):
            raise InputError(
                f"{self.input_names[1]} are not those of pictures of whole tokens, {self.pool} x {self.pool} patches: "
                "make the inputs with the processor"
            )
        return [(rows // self.pool, columns // self.pool) for columns, rows, _ in frames]

    def attention_blocks(self, token_types: Tensor | None) -> Tensor | None:
        """See `Family.attention_blocks`: the tokens of a frame or an image, if the configuration says so."""
        config: Any = self.decoder.config
        if token_types is None or config.use_bidirectional_attention != "vision":
            return None
        from transformers.models.gemma4.modeling_gemma4 import get_block_sequence_ids_for_mask

        blocks: Tensor = get_block_sequence_ids_for_mask(token_types, device=self.device)
        return blocks

    def layer_masks(
        self, embeds: Tensor, mask: Tensor | None, cache: Any, position_ids: Tensor | None, blocks: Tensor
    ) -> Any:
        """See `Family.layer_masks`."""
        from transformers.models.gemma4.modeling_gemma4 import create_masks_for_vision_model as create

        values = {Arg.EMBEDS: embeds, Arg.MASK: mask, Arg.POSITIONS: position_ids, Arg.BLOCKS: blocks}
        config: Any = self.decoder.config
        return create(**mask_arguments(config, values), **cache_for(create, cache))
