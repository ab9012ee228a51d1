"""The beginning of a prompt, which all questions about a video share: its KV cache, from which each of them continues.

Only for methods that do not read the question: what the cache holds must not depend on what follows.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from transformers import cache_utils
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer, LinearAttentionLayer

from ...methods.build import Plan
from ...models.common.family import Family
from ...models.common.layout import Grid
from ...models.common.transformers_compat import Arg, cache_for
from ...session.lengths.context import is_too_long, too_long_error
from ..settings import Support
from .growing_layer import GrowingLayer

_BATCH_BYTES = 2**30
"""Limit on the caches of the prompts of a batch."""
# Older releases have none.
_EMPTY: Any = getattr(cache_utils, "DummyLayer", ())
_PADDED_LENGTH = 64
"""Prompts of a batch have at most twice as many tokens behind the prefix as the shortest, or so many."""


def shares_prefix(plan: Plan) -> bool:
    """Whether the cache of a video is the same for all questions about it."""
    return plan.inside is None and not getattr(plan.before, "reads_question", False)


def prefix_length(family: Family, ids: Tensor) -> int:
    """Number of tokens of a prompt ``(1, Q)`` up to the end of its video, which tokenizers never join with text."""
    return int((ids[0] == family.layout.placeholder).nonzero()[-1]) + 1 + family.layout.closing_tokens


def _filled(cache: Any) -> list[Any]:
    """The layers of a cache without those that use the keys and values of another one, and hold nothing (Gemma 4)."""
    return [layer for layer in getattr(cache, "layers", ()) if not isinstance(layer, _EMPTY)]


def _state_bytes(layer: Any) -> int:
    """Size of what a recurrent layer holds of one prompt."""
    states = (*layer.conv_states.values(), *layer.recurrent_states.values())
    return sum(state.nbytes for state in states if state is not None)


@dataclass(frozen=True, eq=False)
class Prefix:
    """A prefilled beginning of a prompt.

    Parameters
    ----------
    family: of the model.
    ids: ``(1, n)`` int64, before pruning.
    cache: of the kept tokens; never changed.
    grid: of the video.
    scale: see `too_long_error`.
    rope_delta: ``(1, 1)`` int64, offset between position ids and positions in the text that a stock model with M-RoPE
        has stored; None for other models.
    """

    family: Family
    ids: Tensor
    cache: Any
    grid: Grid
    scale: float | None
    rope_delta: Tensor | None

    @classmethod
    def of(cls, family: Family, ids: Tensor, cache: Any, grid: Grid, scale: float | None) -> "Prefix | None":
        """The prefix that a model has just read; None if its cache cannot be continued several times."""
        kinds = {type(layer) for layer in _filled(cache)}
        if not kinds or not kinds <= {DynamicLayer, DynamicSlidingWindowLayer, LinearAttentionLayer}:
            return None
        delta = getattr(family.encoder, "rope_deltas", None) if family.keeps_positions else None
        return cls(family, ids, cache, grid, scale, None if delta is None else delta.clone())

    def begins(self, ids: Tensor) -> bool:
        """Whether a prompt ``(1, Q)`` begins with it and has more tokens."""
        length = self.ids.shape[1]
        return ids.shape[1] > length and torch.equal(ids[:, :length], self.ids)

    def at_once(self, prompts: Sequence[Tensor], max_new_tokens: int, support: Support) -> int:
        """How many of the first of these prompts can be answered in one batch.

        The memory of their caches limits them, and so does their padding.

        Parameters
        ----------
        prompts: ``(1, Q)`` int64 each, the shortest first.
        max_new_tokens: of each answer.
        support: of the generation config.
        """
        if not support.batches or not self.begins(prompts[0]):
            return 1
        read, held = self.ids.shape[1], int(self.cache.get_seq_length())
        of_token = of_prompt = 0
        for layer in _filled(self.cache):
            if type(layer) is LinearAttentionLayer:
                of_prompt += _state_bytes(layer)
            else:
                of_token += (layer.keys.nbytes + layer.values.nbytes) // layer.keys.shape[-2]
        shortest = prompts[0].shape[1] - read
        # In a layer with a sliding window, padding would take places, and in a recurrent one, it leaves traces.
        pads = support.pads and all(type(layer) is DynamicLayer for layer in _filled(self.cache))
        longest = max(_PADDED_LENGTH, 2 * shortest) if pads else shortest

        def fits(place: int) -> bool:
            rest = prompts[place].shape[1] - read
            size = (place + 1) * ((held + rest + max_new_tokens) * of_token + of_prompt)
            return self.begins(prompts[place]) and rest <= longest and size <= _BATCH_BYTES

        return max(1, len(list(takewhile(fits, range(len(prompts))))))

    def arguments(self, prompts: Sequence[Tensor]) -> dict[str, Any]:
        """Arguments of `generate` for prompts that begin with this prefix, as one batch.

        Call `generate` at once, with no other call of the model in between.

        Parameters
        ----------
        prompts: ``(1, Q)`` int64 each, before pruning. Shorter ones are padded behind the prefix, with their last
            token: what reads which tokens a prompt has, such as a repetition penalty, sees no others.
        """
        read, width = self.ids.shape[1], max(ids.shape[1] for ids in prompts)
        batch = self.ids.new_empty(len(prompts), width)
        mask = torch.zeros_like(batch)
        for row, ids in enumerate(prompts):
            rest = ids.shape[1] - read
            batch[row] = ids[0, -1]
            batch[row, :read], batch[row, width - rest :] = ids[0, :read], ids[0, read:]
            mask[row, :read] = mask[row, width - rest :] = 1
        cache = self._copies(len(prompts))
        if self.rope_delta is not None:
            # Stock code uses the offset of its last call, whichever that was.
            self.family.encoder.rope_deltas = self.rope_delta.repeat(len(prompts), 1)
        return {Arg.IDS: batch, Arg.MASK: mask, Arg.USE_CACHE: True, **cache_for(self.family.model.forward, cache)}

    def _copies(self, rows: int) -> Any:
        """A cache with so many rows, each of which holds the prefix."""
        layers = [
            GrowingLayer.of(layer) if type(layer) is DynamicLayer else deepcopy(layer) for layer in self.cache.layers
        ]
        # They take the place of the layers in the copy.
        cache = deepcopy(self.cache, {id(self.cache.layers): layers})
        if rows > 1 and any(type(layer) is LinearAttentionLayer for layer in layers):
            # Stock recurrent layers have no `batch_repeat_interleave`.
            cache.reorder_cache(self.ids.new_zeros(rows))
        elif rows > 1:
            cache.batch_repeat_interleave(rows)
        return cache

    def check_length(self, ids: Tensor) -> None:
        """Raise `InputError` for a prompt ``(1, Q)`` with this beginning that exceeds the model's context."""
        if not self.begins(ids):
            return
        kept, read = int(self.cache.get_seq_length()), self.ids.shape[1]
        length = kept + ids.shape[1] - read
        if is_too_long(self.family, length):
            visual = int((self.ids == self.family.layout.placeholder).sum())
            raise too_long_error(self.family, length, visual, visual - (read - kept), [self.grid], self.scale)
