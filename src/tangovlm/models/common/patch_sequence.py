"""Models whose vision encoder takes the patches of all videos in one row, each video with a grid of its own.

Shape letters: S patches of a call. The patches that become one token, a square of neighbours, lie side by side in the
row.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ...errors import InputError
from ...inputs.frame_size import LIMIT, SizeRule
from ...inputs.pixels import PixelSpec, flag, patches, prepare_pixels, unresized
from . import chunks
from .family import Family
from .layout import Found, Grid
from .patch_signals import Listener
from .prompt_format import VideoInput
from .taps import Tap, before, behind
from .transformers_compat import Arg, divided, in_a_row


class Piece(NamedTuple):
    """Steps of one video that are encoded together."""

    video: int
    start: int
    stop: int


class PatchSequenceFamily(Family):
    """A tower that is handed ``pixel_values_videos (S, C)`` and ``video_grid_thw (V, 3)`` in patches.

    Steps do not see each other, so that they can be encoded in chunks, and scored one by one. Its saliency is
    "mean-query": in the last layer, after the rotary embedding, the mean of a step's queries attends to the keys of its
    tokens (each the mean of its patches' keys), averaged over heads (Tango's release for Qwen2.5-VL), or "attn", the
    mean attention that the patches of a token get. Global frame features are the means of a step's tokens.
    """

    saliency_kinds = ("mean-query", "attn")
    pixel_spec: ClassVar[PixelSpec] = PixelSpec(
        size=(0, 0), mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)
    )
    """What holds where a checkpoint does not say, as in the stock processor."""
    size_rule: ClassVar[SizeRule]
    """How large the stock processor makes frames."""

    # --- what the towers differ in ------------------------------------------------------------------------------

    @property
    def tower(self) -> Any:
        """The vision model, called with ``grid_thw``."""
        return self.encoder.visual

    @property
    def attention(self) -> Any:
        """The attention module of its last layer, called with ``position_embeddings``."""
        return self.tower.blocks[-1].attn

    @property
    def projections(self) -> tuple[nn.Module, ...]:
        """The module that makes queries, keys and values side by side, or those of queries and of keys."""
        return (self.attention.qkv,)

    @property
    def projected(self) -> nn.Module:
        """The module whose output has the finished tokens: ``pooler_output``, or the output itself."""
        tower: nn.Module = self.tower
        return tower

    def raster(self, thw: Tensor) -> Tensor | None:
        """Places ``(tokens,)`` of the tokens in the order in which the last layer sees them; None for raster order."""
        del thw
        return None

    @property
    def widths(self) -> tuple[int, int]:
        """Channels of the tower, and of its MLP."""
        vision = self.model.config.vision_config
        return vision.hidden_size, vision.intermediate_size

    @property
    def heads(self) -> int:
        """Heads of the attention."""
        return int(self.attention.num_heads)

    @property
    def patch(self) -> int:
        """Pixels along a side of a patch."""
        return int(self.model.config.vision_config.patch_size)

    @property
    def merge(self) -> int:
        """Patches along a side of a token of a video."""
        return int(self.model.config.vision_config.spatial_merge_size)

    @property
    def frames_per_step(self) -> int:
        """See `Family.frames_per_step`."""
        return int(self.model.config.vision_config.temporal_patch_size)

    # --- videos in a call of the encoder ------------------------------------------------------------------------

    def grids(self, *args: Any, **kwargs: Any) -> list[Grid]:
        """See `Family.grids`."""
        thw = args[1] if len(args) > 1 else kwargs[Arg.VIDEO_GRIDS]
        return [Grid(steps, height // self.merge, width // self.merge) for steps, height, width in thw.tolist()]

    # --- encoding -----------------------------------------------------------------------------------------------

    def frame_bytes(self, grids: Sequence[Grid]) -> int:
        """See `Family.frame_bytes`: queries, keys, values and their rotation, or the MLP of a layer."""
        hidden, inner = self.widths
        tokens = max(grid.height * grid.width for grid in grids)
        return int(tokens * self.merge**2 * max(8 * hidden, 2 * hidden + 3 * inner) * self.encoder.dtype.itemsize)

    def encode_chunks(
        self, original: Callable[..., Any], bounds: Sequence[tuple[int, int]], *args: Any, **kwargs: Any
    ) -> Any:
        """See `Family.encode_chunks`: the steps of a video that fall into a chunk pass for a video of their own."""
        names = (Arg.VIDEO_PIXELS, Arg.VIDEO_GRIDS)
        kwargs = dict(zip(names, args, strict=False)) | kwargs
        pixels, thw = (kwargs.pop(name) for name in names)
        sizes = [grid.tokens for grid in self.grids(pixels, thw, **kwargs)]
        steps, per_step = thw[:, 0].tolist(), thw[:, 1:].prod(dim=1).tolist()
        rows: list[Tensor] = []
        layers: list[list[Tensor]] = []
        parts, start = [], 0
        for bound in bounds:
            pieces = _pieces(steps, *bound)
            videos = [piece.video for piece in pieces]
            stop = start + sum((piece.stop - piece.start) * per_step[piece.video] for piece in pieces)
            grid = thw[videos].clone()
            grid[:, 0] = torch.tensor([piece.stop - piece.start for piece in pieces])
            output = original(pixels[start:stop], grid, **self.options_of(videos, kwargs))
            part, kind = chunks.fields(output, kwargs), type(output)
            # What it holds beside the part must be gone before the next chunk makes the like.
            del output
            rows += part.pop("pooler_output")
            deep = part.pop("deepstack_features", None) or []
            layers.append([in_a_row(layer) for layer in deep])
            parts.append(part)
            start = stop
        joined = {name: chunks.join([part[name] for part in parts]) for name in parts[0]}
        if deep:
            whole = [torch.cat(layer) for layer in zip(*layers, strict=True)]
            joined["deepstack_features"] = [divided(layer, sizes, deep[0]) for layer in whole]
        return kind(**joined, pooler_output=torch.split(torch.cat(rows), sizes))

    def options_of(self, _videos: list[int], options: dict[str, Any]) -> dict[str, Any]:
        """Other arguments of the stock method for some of the videos (one may occur more than once)."""
        return options

    # --- signals ------------------------------------------------------------------------------------------------

    def listen(self, found: Found, needs: frozenset[str], kind: str) -> list[Tap]:
        """See `Family.listen`."""
        listener = self.listener(found, needs, kind)
        taps = [before(self.tower, listener.before_tower)]
        if "frame_features" in needs:
            taps.append(behind(self.projected, listener.on_tokens))
        if needs & {"saliency", "keys"}:
            taps.append(before(self.attention, listener.before_attention))
            taps += [behind(module, listener.on_projection) for module in self.projections]
        return taps

    def listener(self, found: Found, needs: frozenset[str], kind: str) -> Listener:
        """What the hooks of `listen` call."""
        return Listener(self, found, needs, kind)

    def join(self, parts: list[Tensor]) -> list[Tensor]:
        """See `Family.join`: a list, as videos may have different grids."""
        return parts

    # --- from a file to inputs ----------------------------------------------------------------------------------

    def limited(self, config: Mapping[str, Any], max_frame_pixels: int) -> Mapping[str, Any]:
        """See `PromptFormat.limited`."""
        least = (self.patch * self.merge) ** 2
        if max_frame_pixels < least:
            raise InputError(
                f"max_frame_pixels is {max_frame_pixels}, but a token has {least} pixels: it is an area, such as "
                "448 * 448"
            )
        return {**config, LIMIT: max_frame_pixels}

    def frame_size(
        self, config: Mapping[str, Any], height: int, width: int, frames: int | None = None
    ) -> tuple[int, int]:
        """See `Family.frame_size`: whole tokens, the aspect ratio kept as well as they allow."""
        unit = self.patch * self.merge
        if not flag(config, "do_resize"):
            if height % unit or width % unit:
                raise unresized(height, width, f"multiples of {unit} pixels")
            return height, width
        count = self.default_frames if frames is None else frames
        return self.size_rule.size(config, height, width, count, unit, self.frames_per_step)

    def pixels(self, frames: Tensor, config: Mapping[str, Any], *, resized: bool = False) -> Tensor:
        """``(1, T, 3, height, width)`` float32, in patches not before `inputs`."""
        height, width = frames.shape[-2:]
        size = (height, width) if resized else self.frame_size(config, height, width, len(frames))
        return prepare_pixels(frames, PixelSpec.from_config(config, self.pixel_spec, size))[None]

    def video_token(self, tokenizer: Any) -> str:
        """See `PromptFormat.video_token`."""
        return str(tokenizer.convert_ids_to_tokens(self.model.config.video_token_id))

    def reserved(self, tokenizer: Any) -> tuple[str, ...]:
        """See `PromptFormat.reserved`."""
        image = str(tokenizer.convert_ids_to_tokens(self.model.config.image_token_id))
        return () if image == self.video_token(tokenizer) else (image,)

    def packed(self, pixels: Tensor) -> tuple[Tensor, Tensor, Grid]:
        """Pixels ``(1, T, 3, height, width)`` as rows of patches, their grid in patches ``(1, 3)``, and in tokens."""
        rows, thw = patches(pixels[0], self.patch, self.merge, self.frames_per_step)
        (grid,) = self.grids(rows, thw)
        return rows, thw, grid

    def render_video(self, tokenizer: Any, video: VideoInput) -> str:
        """See `PromptFormat.render_video`."""
        return self.video_token(tokenizer) * self.packed(video.pixels)[2].tokens

    def media_kwargs(self, video: VideoInput) -> dict[str, Tensor]:
        """See `PromptFormat.media_kwargs`."""
        rows, thw, _ = self.packed(video.pixels)
        return {Arg.VIDEO_PIXELS: rows, Arg.VIDEO_GRIDS: thw}

    def token_types(self, ids: Tensor) -> dict[str, Tensor]:
        """See `PromptFormat.token_types`: 2 for a video; what counts positions in three rows asks for it."""
        return {Arg.TOKEN_TYPES: 2 * (ids == self.placeholder).int()} if self.keeps_positions else {}


def _pieces(steps: Sequence[int], start: int, stop: int) -> list[Piece]:
    """The steps from `start` to `stop`, those of all videos in a row, by video."""
    pieces, first = [], 0
    for video, count in enumerate(steps):
        piece = Piece(video, max(start - first, 0), min(stop - first, count))
        if piece.start < piece.stop:
            pieces.append(piece)
        first += count
    return pieces
