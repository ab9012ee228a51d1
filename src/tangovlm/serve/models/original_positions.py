"""Positions of the unpruned prompt, for a model without M-RoPE that `rope_config.use_axes` has configured."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import compatibility
from ..rope_config import position_limit
from . import video_fields
from .mrope_positions import append_positions, fill_positions, pending_positions, position_delta

with compatibility.importing_vllm():
    from vllm.model_executor.layers.rotary_embedding.mrope import MRotaryEmbedding
    from vllm.utils.gpu_sync_debug import gpu_sync_allowed

_AXES = 3


class OriginalPositions:
    """Mix-in for a model of vLLM. Without a call of `recompute_positions` on the instance, vLLM does not use it."""

    _recomputes = False

    def recompute_positions(self, layers: Any, text_config: Any, video_token: int) -> None:
        """Let vLLM ask this instance for the positions of a prompt, before and after its videos are encoded.

        Parameters
        ----------
        layers: of the text model.
        video_token: id of the placeholder of a video.

        Raises
        ------
        ModelError: the release of vLLM does not rotate by positions of several axes, or not by as many.
        """
        limit = position_limit(text_config)
        for layer in layers:
            rotary = layer.self_attn.rotary_emb
            if not isinstance(rotary, MRotaryEmbedding) or rotary.cache_max_position_num < limit:
                raise compatibility.incompatible_release("rotates by positions of one axis, or by too few")
        self._width, self._video_token, self._recomputes = int(text_config.hidden_size), video_token, True
        # The runners of vLLM look for these two attributes.
        self.supports_mrope = self.supports_multimodal_pruning = True

    def place(self, embeddings: Tensor, indices: Tensor) -> Tensor:
        """Embeddings of a pruned video with its positions, if vLLM asks for them.

        Parameters
        ----------
        embeddings: ``(L, D)`` of the kept tokens and the newlines.
        indices: ``(L,)`` int64, of these among the features of the unpruned video.
        """
        return append_positions(embeddings, indices.expand(_AXES, -1), lead=0) if self._recomputes else embeddings

    def get_mrope_input_positions(self, input_tokens: list[int], mm_features: Sequence[Any]) -> tuple[Tensor, int]:
        """Positions ``(3, N)`` in the unpruned prompt, pending for pruned videos, and `position_delta`."""
        positions = torch.arange(len(input_tokens)).repeat(_AXES, 1)
        delta = 0
        for feature in sorted(mm_features, key=lambda each: each.mm_position.offset):
            if video_fields.retention_of(feature.data) == 1:
                continue
            start, length = feature.mm_position.offset, feature.mm_position.length
            stop = start + length
            dropped = int(feature.data[video_fields.FEATURES].data) - length
            positions[:, start:stop] = pending_positions(positions[:, start], length)
            positions[:, stop:] += dropped
            delta += dropped
        return positions, delta

    def recompute_mrope_positions(
        self,
        input_ids: list[int] | Tensor,
        multimodal_embeddings: Sequence[Tensor],
        mrope_positions: Tensor,
        num_computed_tokens: int,
    ) -> tuple[Sequence[Tensor], Tensor, int]:
        """Fill in positions of pruned videos in a chunk of a prompt; called at every step, mostly without any video."""
        # On a GPU this reads tensors back, which synchronizes.
        with gpu_sync_allowed():
            if len(multimodal_embeddings) > 0:
                ids = input_ids.tolist() if isinstance(input_ids, Tensor) else input_ids
                chunk = (ids, self._video_token, num_computed_tokens)
                multimodal_embeddings = fill_positions(mrope_positions, multimodal_embeddings, self._width, *chunk)
            return multimodal_embeddings, mrope_positions, position_delta(mrope_positions)
