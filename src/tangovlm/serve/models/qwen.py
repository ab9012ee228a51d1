"""What the models of Qwen2.5-VL and Qwen3-VL on vLLM share: one packed tower, M-RoPE, videos pruned one by one.

The stock code for vLLM's own pruning is where positions are asked for again once embeddings are there; the plug-in
turns it on and takes its place. Images, and videos of which all is kept, pass as they do without pruning.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from ...models.common.layout import Found, Grid
from ...models.common.patch_sequence import PatchSequenceFamily
from ...models.common.patch_signals import Listener
from ...models.common.transformers_compat import Arg
from .. import compat
from ..pruning import Pruning, mean_over_ranks, options_of
from . import items
from . import mrope_positions as positions
from .qwen_processor import grid_of, retention_of

with compat.internals():
    from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange
    from vllm.utils.gpu_sync_debug import gpu_sync_allowed

if TYPE_CHECKING:
    _Tower: TypeAlias = PatchSequenceFamily
    _Stock: TypeAlias = Any
else:
    # Classes that stand in front of others, whose methods they call.
    _Tower = _Stock = object


class Tower(_Tower):
    """A family bound to vLLM's model, in front of the family's class."""

    @property
    def encoder(self) -> Any:
        """What has the tower, whose features are made by vLLM's model, not by a method that the family would call."""
        return self.model

    @property
    def heads(self) -> int:
        """Those of this tensor-parallel rank."""
        return int(self.attention.num_attention_heads_per_partition)

    def listener(self, found: Found, needs: frozenset[str], kind: str) -> Listener:
        """See `PatchSequenceFamily.listener`."""
        return _Listener(self, found, needs, kind)


class _Listener(Listener):
    """Hooks on vLLM's tower."""

    def before_attention(self, _module: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # Stock tables have one column for each pair of channels.
        cos, sin = (kwargs[f"rotary_pos_emb_{name}"] for name in ("cos", "sin"))
        self._rotary = torch.cat([cos, cos], dim=-1), torch.cat([sin, sin], dim=-1)
        self._projected.clear()

    def on_projection(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        # Patches come with a batch dimension, and a projection with its bias.
        super().on_projection(module, args, output[0].flatten(0, 1))

    def on_tokens(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        # Features for layers of the text model stand behind those of the tokens.
        super().on_tokens(module, args, output[:, : self._family.model.config.vision_config.out_hidden_size])

    def _add(self, name: str, values: Tensor) -> None:
        super()._add(name, mean_over_ranks(values))


def item(**values: Any) -> dict[str, Any]:
    """Fields of a processed item, as stock code reads them."""
    return {name: SimpleNamespace(data=value) for name, value in values.items()}


class QwenModel(_Stock):
    """In front of a stock model: prunes its videos behind the tower.

    Raises
    ------
    ModelError: a signal that the method needs and the family does not give.
    """

    served: ClassVar[type[PatchSequenceFamily]]
    """The family, bound to vLLM's model."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        options = options_of(vllm_config)
        self._family = self.served(self)
        self._pruning = None if options is None else Pruning(self._family, options)
        self._told: dict[str, Any] = {}

    # --- embeddings ---------------------------------------------------------------------------------------------

    @property
    def _width(self) -> int:
        """Channels of the embedding of a token, with those for layers of the text model."""
        raise NotImplementedError

    def embed_multimodal(self, **kwargs: object) -> Any:
        """Embeddings of images as ever, of pruned videos with `positions.CHANNELS` behind them."""
        self._told = {name: kwargs.pop(name) for name in (items.RETENTION, items.TIMESTAMPS) if name in kwargs}
        try:
            return super().embed_multimodal(**kwargs)
        finally:
            self._told = {}

    def _process_video_input(self, video_input: Any) -> Any:
        if self._pruning is None or items.RETENTION not in self._told:
            return super()._process_video_input(video_input)
        grids = video_input[Arg.VIDEO_GRIDS]
        pixels = video_input[Arg.VIDEO_PIXELS].split(grids.prod(dim=-1).tolist())
        told = zip(self._told[items.RETENTION], self._told[items.TIMESTAMPS], strict=True)
        return tuple(
            self._video(part, grids[number], float(retention), seconds, video_input, number)
            for number, (part, (retention, seconds)) in enumerate(zip(pixels, told, strict=True))
        )

    def _video(
        self, pixels: Tensor, thw: Tensor, retention: float, seconds: Tensor, video_input: Any, number: int
    ) -> Tensor:
        def encode() -> Tensor:
            rows: Tensor = self.visual(pixels, **{Arg.GRIDS: [thw.tolist()]})
            return rows

        if retention == 1:
            return encode()
        (grid,) = self._family.grids(pixels, thw[None])
        assert self._pruning is not None
        selection, features = self._pruning(encode, grid, retention, items.known(seconds))
        rows = features[selection.indices]
        # Of features for layers of the text model, a token takes its own along.
        rows[:, : selection.features.shape[1]] = selection.features
        return self._placed(rows, selection.indices, grid, video_input, number)

    def _placed(self, rows: Tensor, kept: Tensor, grid: Grid, video_input: Any, number: int) -> Tensor:
        """Kept features ``(K, C)`` as they stand in the prompt, with `positions.attached`.

        Parameters
        ----------
        kept: ``(K,)`` int64, places in the grid.
        number: of the video in the input.
        """
        raise NotImplementedError

    def _postprocess_image_embeds_evs(self, image_embeds_split: Any, image_input: Any) -> Any:
        if self._pruning is None:
            return super()._postprocess_image_embeds_evs(image_embeds_split, image_input)
        return image_embeds_split

    def _postprocess_video_embeds_evs(self, video_embeds_split: Any, video_input: Any) -> Any:
        if self._pruning is None:
            return super()._postprocess_video_embeds_evs(video_embeds_split, video_input)
        return video_embeds_split

    def get_mm_lora_token_counts(
        self, *, modality: str, mm_kwargs: Mapping[str, Any] | None, num_mm_embeds: int
    ) -> tuple[int, int | None]:
        """How many patches and tokens an adapter of the tower sees of an item, which is before a video is pruned."""
        if mm_kwargs is not None and retention_of(mm_kwargs) < 1:
            num_mm_embeds = grid_of(mm_kwargs, self._family.merge).tokens
        counts: tuple[int, int | None] = super().get_mm_lora_token_counts(
            modality=modality, mm_kwargs=mm_kwargs, num_mm_embeds=num_mm_embeds
        )
        return counts

    # --- positions ----------------------------------------------------------------------------------------------

    def _unpruned(self, ids: list[int], grid: Grid) -> list[int]:
        """Token ids that stand for a whole video in a prompt, made of those that stand for what is kept of it."""
        raise NotImplementedError

    def _alone(self, ids: list[int], fields: Mapping[str, Any]) -> Tensor:
        """Positions ``(3, len(ids))`` of a whole video that is all of a prompt."""
        feature = MultiModalFeatureSpec(fields, "video", "", PlaceholderRange(0, len(ids)))
        found: Tensor = super().get_mrope_input_positions(ids, [feature])[0]
        return found

    def get_mrope_input_positions(self, input_tokens: list[int], mm_features: Sequence[Any]) -> tuple[Tensor, int]:
        """Positions ``(3, N)`` of the unpruned prompt, pending where a video is pruned, and the delta behind it."""
        features = sorted(mm_features, key=lambda feature: feature.mm_position.offset)
        if self._pruning is None or not any(retention_of(feature.data) < 1 for feature in features):
            return super().get_mrope_input_positions(input_tokens, mm_features)
        whole: list[int] = []
        moved, pieces, done = [], [], 0
        for feature in features:
            start, length = feature.mm_position.offset, feature.mm_position.length
            whole += input_tokens[done:start]
            ids = input_tokens[start : start + length]
            if retention_of(feature.data) < 1:
                ids = self._unpruned(ids, grid_of(feature.data, self._family.merge))
                pieces.append((length, len(whole), len(ids)))
            moved.append(replace(feature, mm_position=PlaceholderRange(len(whole), len(ids))))
            whole += ids
            done = start + length
        whole += input_tokens[done:]
        found, behind = super().get_mrope_input_positions(whole, moved)
        return _shortened(found, pieces), behind + len(whole) - len(input_tokens)

    def recompute_mrope_positions(
        self,
        input_ids: list[int] | Tensor,
        multimodal_embeddings: Sequence[Tensor],
        mrope_positions: Tensor,
        num_computed_tokens: int,
    ) -> tuple[Sequence[Tensor], Tensor, int]:
        """Positions of pruned videos in a chunk of a prompt; vLLM asks at every step, so mostly there is none."""
        if self._pruning is None:
            return super().recompute_mrope_positions(
                input_ids, multimodal_embeddings, mrope_positions, num_computed_tokens
            )
        # What stands on a GPU here has to be read from it.
        with gpu_sync_allowed():
            if len(multimodal_embeddings) > 0:
                ids = input_ids.tolist() if isinstance(input_ids, Tensor) else input_ids
                chunk = (ids, self.config.video_token_id, num_computed_tokens)
                multimodal_embeddings = positions.settle(mrope_positions, multimodal_embeddings, self._width, *chunk)
            return multimodal_embeddings, mrope_positions, positions.delta(mrope_positions)


def _shortened(found: Tensor, pieces: Sequence[tuple[int, int, int]]) -> Tensor:
    """Positions ``(3, n)`` of an unpruned prompt as those of the pruned one.

    Parameters
    ----------
    pieces: of each pruned video its length, then its start and its length in the unpruned prompt.
    """
    parts, done = [], 0
    for length, start, full in pieces:
        parts += [found[:, done:start], positions.pending(found[:, start], length)]
        done = start + full
    return torch.cat([*parts, found[:, done:]], dim=1)
