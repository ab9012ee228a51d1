"""Models whose vision encoder takes the patches of all videos in one row, each video with a grid of its own.

Shape letters: S patches of a call, F steps (frames of the token grids) of a call, P patches of a step, A heads, d
channels of a head. The patches that become one token, a square of neighbours, lie side by side in the row.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ..signals.saliency import grouped_mean, mean_attention, mean_keys, mean_query_attention, rotate_half
from . import chunks
from .base import Family
from .call import Found, Grid
from .inputs import PixelSpec, patches, prepare_pixels
from .taps import Tap, before, behind
from .versions import divided, in_a_row

_PIXELS = PixelSpec(size=(0, 0), mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711))


class Piece(NamedTuple):
    """Steps of one video that are encoded together."""

    video: int
    start: int
    stop: int


class Packed(Family):
    """A tower that is handed ``pixel_values_videos (S, C)`` and ``video_grid_thw (V, 3)`` in patches.

    Steps do not see each other, so that they can be encoded in chunks, and scored one by one. Its saliency is
    "mean-query": in the last layer, after the rotary embedding, the mean of a step's queries attends to the keys of its
    tokens (each the mean of its patches' keys), averaged over heads (Tango's release for Qwen2.5-VL), or "attn", the
    mean attention that the patches of a token get. Global frame features are the means of a step's tokens.
    """

    saliency_kinds = ("mean-query", "attn")
    max_side: ClassVar[int] = 448
    """Longer side of a frame in pixels, as in the paper."""

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
        """A."""
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
        thw = args[1] if len(args) > 1 else kwargs["video_grid_thw"]
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
        names = ("pixel_values_videos", "video_grid_thw")
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

    def listener(self, found: Found, needs: frozenset[str], kind: str) -> "Listener":
        """What the hooks of `listen` call."""
        return Listener(self, found, needs, kind)

    def join(self, parts: list[Tensor]) -> list[Tensor]:
        """See `Family.join`: a list, as videos may have different grids."""
        return parts

    # --- from a file to inputs ----------------------------------------------------------------------------------

    def frame_size(self, _config: Mapping[str, Any], height: int, width: int) -> tuple[int, int]:
        """See `Family.frame_size`: the aspect ratio of the frames, at most `max_side`, in whole tokens."""
        unit = self.patch * self.merge
        scale = min(1.0, self.max_side / max(height, width))
        # A stripe of a single token's height would leave nothing to choose from.
        least = 2 * unit
        longest = self.max_side // unit * unit
        return tuple(min(longest, max(least, round(side * scale / unit) * unit)) for side in (height, width))  # type: ignore[return-value]

    def pixels(self, frames: Tensor, config: Mapping[str, Any]) -> Tensor:
        """``(1, T, 3, height, width)`` float32, in patches not before `inputs`."""
        height, width = self.frame_size(config, *frames.shape[-2:])
        spec = PixelSpec.from_config(config, _PIXELS, (height, width))
        return prepare_pixels(frames, spec)[None]

    def video_token(self, tokenizer: Any) -> str:
        """See `Written.video_token`."""
        return str(tokenizer.convert_ids_to_tokens(self.model.config.video_token_id))

    def reserved(self, tokenizer: Any) -> tuple[str, ...]:
        """See `Written.reserved`."""
        image = str(tokenizer.convert_ids_to_tokens(self.model.config.image_token_id))
        return () if image == self.video_token(tokenizer) else (image,)

    def packed(self, pixels: Tensor) -> tuple[Tensor, Tensor, Grid]:
        """Pixels ``(1, T, 3, height, width)`` as rows of patches, their grid in patches ``(1, 3)``, and in tokens."""
        rows, thw = patches(pixels[0], self.patch, self.merge, self.frames_per_step)
        (grid,) = self.grids(rows, thw)
        return rows, thw, grid

    def written(self, tokenizer: Any, pixels: Tensor, _seconds: Tensor) -> str:
        """See `Written.written`."""
        return self.video_token(tokenizer) * self.packed(pixels)[2].tokens

    def arguments(self, pixels: Tensor, _seconds: Tensor) -> dict[str, Tensor]:
        """See `Written.arguments`."""
        rows, thw, _ = self.packed(pixels)
        return {"pixel_values_videos": rows, "video_grid_thw": thw}

    def token_types(self, ids: Tensor) -> dict[str, Tensor]:
        """See `Written.token_types`: 2 for a video; what counts positions in three rows asks for it."""
        return {"mm_token_type_ids": 2 * (ids == self.placeholder).int()} if self.keeps_positions else {}


class Listener:
    """Hooks on one tower; what a call tells before it computes is kept for as long as it lasts."""

    def __init__(self, family: Packed, found: Found, needs: frozenset[str], kind: str) -> None:
        self._family = family
        self._found = found
        self._needs = needs
        self._kind = kind
        self._thw: Tensor
        self._steps: list[tuple[int, int]] = []
        self._rotary: tuple[Tensor, Tensor]
        self._projected: dict[nn.Module, Tensor] = {}

    def before_tower(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note the grids of the call."""
        self._thw = torch.as_tensor(kwargs["grid_thw"] if "grid_thw" in kwargs else args[1])
        side = self._family.merge
        self._steps = [(high // side, wide // side) for count, high, wide in self._thw.tolist() for _ in range(count)]

    def before_attention(self, _module: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note the rotary tables of the call, ``(S, d)`` each."""
        self._rotary = kwargs["position_embeddings"]
        self._projected.clear()

    @torch.no_grad()
    def on_projection(self, module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> None:
        """Queries and keys are there, once all projections have run."""
        self._projected[module] = output
        if len(self._projected) < len(self._family.projections):
            return
        found = [self._projected[projection] for projection in self._family.projections]
        parts = found[0].chunk(3, dim=-1)[:2] if len(found) == 1 else found
        query, key = (part.view(*part.shape[:-1], self._family.heads, -1) for part in parts)
        self._projected.clear()
        group = self._family.merge**2
        if "saliency" in self._needs:
            cos, sin = (table.float()[:, None] for table in self._rotary)
            scores = [self._scores(q, k, c, s, group) for q, k, c, s in self._runs(query, key, cos, sin)]
            self._add("saliency", torch.cat(scores))
        if "keys" in self._needs:
            flat = key.flatten(1)
            self._add("keys", grouped_mean(mean_keys(flat[None], self._family.heads), group)[0])

    @torch.no_grad()
    def on_tokens(self, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        """The finished tokens are there, in raster order."""
        tokens = getattr(output, "pooler_output", output)
        sizes = [height * width for height, width in self._steps]
        self._found["frame_features"] += [step.mean(dim=0, dtype=torch.float32) for step in torch.split(tokens, sizes)]

    def _scores(self, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, group: int) -> Tensor:
        """Scores ``(F * tokens,)`` of steps with equally many patches: all arguments are ``(F, P, A or 1, d)``."""
        query, key = (part.float() * cos + rotate_half(part.float()) * sin for part in (query, key))
        if self._kind == "mean-query":
            return mean_query_attention(query, key, group).flatten()
        attention = mean_attention(query.flatten(2), key.flatten(2), self._family.heads)
        return grouped_mean(attention[..., None], group).flatten()

    def _runs(self, *rows: Tensor) -> list[tuple[Tensor, ...]]:
        """Rows ``(S, ...)`` as ``(F, P, ...)``, for each run of steps with equally many patches."""
        sizes = [height * width * self._family.merge**2 for height, width in self._steps]
        borders = [place for place in range(1, len(sizes)) if sizes[place] != sizes[place - 1]]
        runs, start = [], 0
        for first, last in pairwise([0, *borders, len(sizes)]):
            stop = start + (last - first) * sizes[first]
            runs.append(tuple(part[start:stop].reshape(last - first, -1, *part.shape[1:]) for part in rows))
            start = stop
        return runs

    def _add(self, name: str, values: Tensor) -> None:
        """Values ``(tokens, ...)`` in the order of the last layer, as one tensor a step."""
        places = self._family.raster(self._thw)
        if places is not None:
            ordered = torch.empty_like(values)
            ordered[places.to(values.device)] = values
            values = ordered
        parts = torch.split(values, [height * width for height, width in self._steps])
        self._found[name] += [part.view(*grid, *part.shape[1:]) for part, grid in zip(parts, self._steps, strict=True)]


def _pieces(steps: Sequence[int], start: int, stop: int) -> list[Piece]:
    """The steps from `start` to `stop`, those of all videos in a row, by video."""
    pieces, first = [], 0
    for video, count in enumerate(steps):
        piece = Piece(video, max(start - first, 0), min(stop - first, count))
        if piece.start < piece.stop:
            pieces.append(piece)
        first += count
    return pieces


def seconds_per_step(seconds: Tensor, frames_per_step: int) -> float:
    """Mean time between two steps of sampled frames ``(T,)``; a single frame counts as a second."""
    frames = seconds.numel()
    interval = float(seconds[-1] - seconds[0]) / (frames - 1) if frames > 1 else 1.0
    return interval * frames_per_step if math.isfinite(interval) and interval > 0 else float(frames_per_step)
