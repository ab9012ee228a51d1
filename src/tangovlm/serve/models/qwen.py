"""Common parts of the Qwen models on vLLM: a vision encoder for packed patches, M-RoPE, pruning video by video.

vLLM recomputes positions after encoding only if its own pruning of videos is on. The plug-in turns that on and replaces
its steps. Images, and videos at retention 1, take the same path as without pruning.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from ...models.common.layout import Grid
from ...models.common.patch_sequence import PatchSequenceFamily
from ...models.common.patch_signals import PatchSignalRecorder
from ...models.common.transformers_compat import Arg
from .. import compatibility
from ..video_pruner import VideoPruner, mean_over_ranks, pruning_options
from . import video_fields
from .mrope_positions import fill_positions, pending_positions, position_delta
from .qwen_processor import grid_of

with compatibility.importing_vllm():
    from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange
    from vllm.utils.gpu_sync_debug import gpu_sync_allowed

if TYPE_CHECKING:
    _Family: TypeAlias = PatchSequenceFamily
    _Stock: TypeAlias = Any
else:
    # Mix-ins: `super` calls the class after them in the order of bases.
    _Family = _Stock = object


class _Recorder(PatchSignalRecorder):
    """Hooks on the vision encoder of vLLM."""

    def before_attention(self, _module: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # The tables of vLLM have one column for each pair of channels.
        cos, sin = (kwargs[f"rotary_pos_emb_{name}"] for name in ("cos", "sin"))
        self._rotary = torch.cat([cos, cos], dim=-1), torch.cat([sin, sin], dim=-1)
        self._outputs.clear()

    def on_query_key(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        # vLLM adds a batch dimension to patches, and returns the bias with a projection.
        super().on_query_key(module, args, output[0].flatten(0, 1))

    def on_tokens(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        # The features of tokens are followed by those for layers of the text model.
        super().on_tokens(module, args, output[:, : self._family.model.config.vision_config.out_hidden_size])

    def _add(self, name: str, values: Tensor) -> None:
        super()._add(name, mean_over_ranks(values))


class ServedPatchFamily(_Family):
    """Mix-in that binds a family to the model of vLLM; placed before the class of the family."""

    # vLLM has model classes of its own.
    since = ""
    recorder = _Recorder

    @property
    def encoder(self) -> Any:
        """The model, which has the vision encoder; vLLM, not the family, computes features with it."""
        return self.model

    @property
    def heads(self) -> int:
        """Number of attention heads on this tensor-parallel rank."""
        return int(self.attention.num_attention_heads_per_partition)


def item(**values: Any) -> dict[str, Any]:
    """Fields of a processed video or image in the format that stock code reads."""
    return {name: SimpleNamespace(data=value) for name, value in values.items()}


class QwenModel(_Stock):
    """Mix-in for a stock model of vLLM: prunes videos after the vision encoder.

    Raises
    ------
    ModelError: a signal that the method needs and the family does not provide.
    """

    family_class: ClassVar[type[PatchSequenceFamily]]
    """The family, bound to the model of vLLM."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        options = pruning_options(vllm_config)
        self._family = self.family_class(self)
        self._pruning = None if options is None else VideoPruner(self._family, options)
        self._video_fields: dict[str, Any] = {}

    # --- embeddings ---------------------------------------------------------------------------------------------

    @property
    def _width(self) -> int:
        """Number of channels in the embedding of a token, those for layers of the text model included."""
        raise NotImplementedError

    def embed_multimodal(self, **kwargs: object) -> Any:
        """The stock embeddings of images, and embeddings of pruned videos with `CHANNELS` extra channels."""
        self._video_fields = {
            name: kwargs.pop(name) for name in (video_fields.RETENTION, video_fields.TIMESTAMPS) if name in kwargs
        }
        try:
            return super().embed_multimodal(**kwargs)
        finally:
            self._video_fields = {}

    def _process_video_input(self, video_input: Any) -> Any:
        if self._pruning is None or video_fields.RETENTION not in self._video_fields:
            return super()._process_video_input(video_input)
        grids = video_input[Arg.VIDEO_GRIDS]
        pixels = video_input[Arg.VIDEO_PIXELS].split(grids.prod(dim=-1).tolist())
        fields = zip(
            *(self._video_fields[name] for name in (video_fields.RETENTION, video_fields.TIMESTAMPS)), strict=True
        )
        return tuple(
            self._embed_video(part, grids[number], float(retention), seconds, video_input, number)
            for number, (part, (retention, seconds)) in enumerate(zip(pixels, fields, strict=True))
        )

    def _embed_video(
        self, pixels: Tensor, thw: Tensor, retention: float, seconds: Tensor, video_input: Any, number: int
    ) -> Tensor:
        if retention == 1:
            return self._features(pixels, thw)
        (grid,) = self._family.layout.grids(pixels, thw[None])
        assert self._pruning is not None
        selection, features = self._pruning(
            lambda: self._features(pixels, thw), grid, retention, video_fields.usable_seconds(seconds)
        )
        kept = features[selection.indices]
        # A kept token also keeps its own features for layers of the text model.
        kept[:, : selection.features.shape[1]] = selection.features
        return self._place(kept, selection.indices, grid, video_input, number)

    def _features(self, pixels: Tensor, thw: Tensor) -> Tensor:
        """Features ``(N, C)`` of a video of patches ``(S, ...)`` on a grid ``(3,)``."""
        features: Tensor = self.visual(pixels, **{Arg.GRIDS: [thw.tolist()]})
        return features

    def _place(self, features: Tensor, indices: Tensor, grid: Grid, video_input: Any, number: int) -> Tensor:
        """Embeddings ``(L, C + CHANNELS)`` of a pruned video in the prompt, with `append_positions`.

        Parameters
        ----------
        features: ``(K, C)`` of the kept tokens.
        indices: ``(K,)`` int64, of the kept tokens in the grid.
        number: index of the video in the input.
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
        """Numbers of patches and tokens that an adapter of the vision encoder processes, before a video is pruned."""
        if mm_kwargs is not None and video_fields.retention_of(mm_kwargs) < 1:
            num_mm_embeds = grid_of(mm_kwargs, self._family.merge_size).tokens
        counts: tuple[int, int | None] = super().get_mm_lora_token_counts(
            modality=modality, mm_kwargs=mm_kwargs, num_mm_embeds=num_mm_embeds
        )
        return counts

    # --- positions ----------------------------------------------------------------------------------------------

    def _unpruned_ids(self, ids: list[int], grid: Grid) -> list[int]:
        """Token ids of a whole video in a prompt, made from the ids of the pruned one."""
        raise NotImplementedError

    def _video_positions(self, ids: list[int], fields: Mapping[str, Any]) -> Tensor:
        """Positions ``(3, len(ids))`` of a whole video in a prompt that has nothing else."""
        feature = MultiModalFeatureSpec(fields, "video", "", PlaceholderRange(0, len(ids)))
        positions: Tensor = super().get_mrope_input_positions(ids, [feature])[0]
        return positions

    def get_mrope_input_positions(self, input_tokens: list[int], mm_features: Sequence[Any]) -> tuple[Tensor, int]:
        """Positions ``(3, N)`` in the unpruned prompt, pending for pruned videos, and `position_delta`."""
        features = sorted(mm_features, key=lambda feature: feature.mm_position.offset)
        if self._pruning is None or not any(video_fields.retention_of(feature.data) < 1 for feature in features):
            return super().get_mrope_input_positions(input_tokens, mm_features)
        whole: list[int] = []
        moved, pieces, done = [], [], 0
        for feature in features:
            start, length = feature.mm_position.offset, feature.mm_position.length
            whole += input_tokens[done:start]
            ids = input_tokens[start : start + length]
            if video_fields.retention_of(feature.data) < 1:
                ids = self._unpruned_ids(ids, grid_of(feature.data, self._family.merge_size))
                pieces.append((length, len(whole), len(ids)))
            moved.append(replace(feature, mm_position=PlaceholderRange(len(whole), len(ids))))
            whole += ids
            done = start + length
        whole += input_tokens[done:]
        positions, delta = super().get_mrope_input_positions(whole, moved)
        return _remove_pruned(positions, pieces), delta + len(whole) - len(input_tokens)

    def recompute_mrope_positions(
        self,
        input_ids: list[int] | Tensor,
        multimodal_embeddings: Sequence[Tensor],
        mrope_positions: Tensor,
        num_computed_tokens: int,
    ) -> tuple[Sequence[Tensor], Tensor, int]:
        """Fill in positions of pruned videos in a chunk of a prompt; called at every step, mostly without any video."""
        if self._pruning is None:
            return super().recompute_mrope_positions(
                input_ids, multimodal_embeddings, mrope_positions, num_computed_tokens
            )
        # On a GPU this reads tensors back, which synchronizes.
        with gpu_sync_allowed():
            if len(multimodal_embeddings) > 0:
                ids = input_ids.tolist() if isinstance(input_ids, Tensor) else input_ids
                chunk = (ids, self.config.video_token_id, num_computed_tokens)
                multimodal_embeddings = fill_positions(mrope_positions, multimodal_embeddings, self._width, *chunk)
            return multimodal_embeddings, mrope_positions, position_delta(mrope_positions)


def _remove_pruned(positions: Tensor, pieces: Sequence[tuple[int, int, int]]) -> Tensor:
    """Positions ``(3, N)`` of the pruned prompt from those of the unpruned one.

    Parameters
    ----------
    pieces: for each pruned video its length, and its start and length in the unpruned prompt.
    """
    parts, done = [], 0
    for length, start, full in pieces:
        parts += [positions[:, done:start], pending_positions(positions[:, start], length)]
        done = start + full
    return torch.cat([*parts, positions[:, done:]], dim=1)
