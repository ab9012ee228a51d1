"""The state of a key-value cache from which tokens were dropped: positions in its layers, and in the unpruned prompt.

Dropped tokens make a cache shorter than the prompt, so that its length says neither where the next token is in the
prompt nor which mask a layer needs. The missing facts are stored on the cache itself: every generation has its own, and
a deep copy or a pickle of a cache includes them. The methods of a cache that change its batch entries or its length are
wrapped on the instance, and change the state in the same way.

Shape letters: B batch entries of the cache, n positions that a layer holds, s positions of the first layer up to the
end of the last pruned forward, Q new positions.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..errors import InputError

_ATTRIBUTE = "_tangovlm_state"


def count_positions(valid: Tensor) -> Tensor:
    """Position ids ``(B, n)`` without gaps for a mask ``(B, n)``; padding has the id of the token before it, or 0.

    >>> count_positions(torch.tensor([[False, True, True]])).tolist()
    [[0, 0, 1]]
    """
    return (valid.long().cumsum(dim=1) - 1).clamp_min(0)


@dataclass(frozen=True, eq=False)
class LayerPositions:
    """Positions in the cache of a group of layers.

    Parameters
    ----------
    valid: ``(B, n)`` bool, False for padding.
    has_padding: False only if no position is padding (stored, because asking the device costs a synchronization).
    """

    valid: Tensor
    has_padding: bool

    @property
    def length(self) -> int:
        """n."""
        return self.valid.shape[1]

    def select(self, index: Tensor) -> "LayerPositions":
        """The batch entries ``(B',)`` int64."""
        return replace(self, valid=self.valid[index.to(self.valid.device)])

    def remove_last(self, count: int) -> "LayerPositions":
        """Without the last `count` positions."""
        return replace(self, valid=self.valid[:, : max(0, self.length - count)])

    def append(self, valid: Tensor, has_padding: bool) -> "LayerPositions":
        """With new positions ``(B, Q)`` at the end."""
        return LayerPositions(torch.cat([self.valid, valid], dim=1), self.has_padding or has_padding)

    def last_position_ids(self, count: int) -> Tensor:
        """Position ids ``(B, count)`` without gaps of the last positions."""
        return count_positions(self.valid)[:, -count:]


@dataclass(frozen=True, eq=False)
class Trace:
    """Maps the first s cached positions to the unpruned sequence, for a cache that is cropped within them.

    Parameters
    ----------
    index: ``(B, s)`` int64, position in the unpruned sequence.
    dropped: ``(B, s)`` int64, number of tokens dropped before it.
    next_id: ``(B, s)`` int64, the position id that would follow it; None for models that count position ids.
    """

    index: Tensor
    dropped: Tensor
    next_id: Tensor | None

    def map(self, function: Callable[[Tensor], Tensor]) -> "Trace":
        """With the function applied to each tensor."""
        next_id = None if self.next_id is None else function(self.next_id)
        return Trace(function(self.index), function(self.dropped), next_id)

    def append(self, other: "Trace") -> "Trace":
        """With more positions at the end."""
        next_id = None
        if self.next_id is not None and other.next_id is not None:
            next_id = torch.cat([self.next_id, other.next_id], dim=1)
        return Trace(
            torch.cat([self.index, other.index], dim=1), torch.cat([self.dropped, other.dropped], dim=1), next_id
        )


@dataclass(frozen=True, eq=False)
class UnprunedPositions:
    """The sequence that the first layer would hold if nothing had been dropped before the language model.

    Parameters
    ----------
    length: positions of the unpruned sequence.
    dropped: ``(B, 1)`` int64, tokens that were dropped.
    next_id: ``(B, 1)`` int64, the position id of the next token in models with M-RoPE; else None.
    trace: positions up to the end of the last pruned forward; all later ones were kept.
    """

    length: int
    dropped: Tensor
    next_id: Tensor | None
    trace: Trace

    @classmethod
    def of_stock_cache(cls, valid: Tensor, with_ids: bool) -> "UnprunedPositions":
        """Those of a cache ``(B, n)`` from which nothing was dropped; `with_ids` for models with M-RoPE."""
        batch, length = valid.shape
        zeros = valid.new_zeros(batch, 1, dtype=torch.long)
        next_id = valid.long().cumsum(dim=1) if with_ids else None
        index = torch.arange(length, device=valid.device).expand(batch, -1)
        last = None if next_id is None else pad(next_id, (1, 0))[:, -1:]
        return cls(length, zeros, last, Trace(index, zeros.expand(-1, length), next_id))

    def select(self, index: Tensor) -> "UnprunedPositions":
        """The batch entries ``(B',)`` int64."""
        index = index.to(self.dropped.device)
        next_id = None if self.next_id is None else self.next_id[index]
        trace = self.trace.map(lambda values: values[index])
        return replace(self, dropped=self.dropped[index], next_id=next_id, trace=trace)

    def crop(self, first: LayerPositions, length: int) -> "UnprunedPositions":
        """Those of a cache whose first layer is cropped from `first` to `length` positions."""
        removed = first.length - length
        if length >= self.trace.index.shape[1]:
            next_id = None if self.next_id is None else self.next_id - removed
            return replace(self, length=self.length - removed, next_id=next_id)
        if length == 0:
            return UnprunedPositions.of_stock_cache(first.valid[:, :0], self.next_id is not None)
        last = self.trace.map(lambda values: values[:, length - 1 : length])
        trace = self.trace.map(lambda values: values[:, :length])
        return UnprunedPositions(int(last.index.max()) + 1, last.dropped, last.next_id, trace)

    def full_trace(self, count: int) -> Trace:
        """The trace of all `count` positions of the first layer."""
        later = count - self.trace.index.shape[1]
        steps = torch.arange(later, device=self.dropped.device).expand(len(self.dropped), -1)
        next_id = None if self.next_id is None else self.next_id - later + 1 + steps
        return self.trace.append(Trace(self.length - later + steps, self.dropped.expand(-1, later), next_id))


@dataclass(frozen=True, eq=False)
class CacheState:
    """The state of a pruned cache, beside its keys and values.

    Parameters
    ----------
    layers: one entry for the layers before the first cut of a method inside the language model, then one for those
        after each cut; a single entry if no method prunes there.
    unpruned: None if nothing was dropped before the language model.
    """

    layers: tuple[LayerPositions, ...]
    unpruned: UnprunedPositions | None

    @property
    def first(self) -> LayerPositions:
        """Positions of the first layer."""
        return self.layers[0]

    @property
    def batch_size(self) -> int:
        """B."""
        return len(self.first.valid)

    def select(self, index: Tensor) -> "CacheState":
        """The state of the batch entries ``(B',)`` int64; one may be repeated."""
        unpruned = None if self.unpruned is None else self.unpruned.select(index)
        return CacheState(tuple(layer.select(index) for layer in self.layers), unpruned)

    def crop(self, length: int) -> "CacheState":
        """The state after the first layer was cropped to `length` positions, and all others by as many.

        Used by assisted generation to remove rejected tokens, and by users to reuse the beginning of a prompt.
        """
        removed = self.first.length - length
        if removed <= 0:
            return self
        unpruned = None if self.unpruned is None else self.unpruned.crop(self.first, length)
        return CacheState(tuple(layer.remove_last(removed) for layer in self.layers), unpruned)

    def check_batch_size(self, batch: int) -> None:
        """Raise `InputError` unless a batch has as many entries as the cache."""
        if batch != self.batch_size:
            raise InputError(
                f"the cache has {self.batch_size} batch entries, but the inputs have {batch}: select or repeat entries "
                "with batch_select_indices or batch_repeat_interleave of the cache itself"
            )

    def next_position_ids(self, valid: Tensor) -> Tensor:
        """Position ids ``(3, B, Q)`` for text that follows, in a model with M-RoPE; `valid` is ``(B, Q)`` bool."""
        self.check_batch_size(len(valid))
        assert self.unpruned is not None
        assert self.unpruned.next_id is not None
        return (self.unpruned.next_id + count_positions(valid)).expand(3, -1, -1)


# --- the state on its cache ---------------------------------------------------------------------------------------


def set_state(cache: Any, state: CacheState) -> None:
    """Store the state of a cache on it."""
    if _ATTRIBUTE not in vars(cache):
        for name, update in _UPDATES.items():
            if hasattr(cache, name):
                setattr(cache, name, _StatefulMethod(cache, name, update))
    setattr(cache, _ATTRIBUTE, state)


def get_state(cache: Any) -> CacheState | None:
    """The state of a cache, cropped to its present length; None if it has none, or there is no cache.

    Raises
    ------
    InputError: the cache is a shallow copy.
    """
    state: CacheState | None = getattr(cache, _ATTRIBUTE, None)
    if state is None:
        return None
    wrapper = next((value for value in vars(cache).values() if isinstance(value, _StatefulMethod)), None)
    if wrapper is not None and not wrapper.belongs_to(cache):
        raise InputError("this cache is a shallow copy of another one: copy it with copy.deepcopy")
    # A compilable cache keeps its length on the device, where reading it would synchronize; its `crop` is wrapped.
    return state if getattr(cache, "is_compileable", False) else state.crop(int(cache.get_seq_length()))


def clear_state(cache: Any) -> None:
    """Remove the state of a cache that was emptied."""
    if getattr(cache, _ATTRIBUTE, None) is not None:
        setattr(cache, _ATTRIBUTE, None)


def cached_length(cache: Any, state: CacheState | None) -> int:
    """Positions in the first layer of a cache; from its state if it has one, which needs no synchronization."""
    if cache is None:
        return 0
    return int(cache.get_seq_length()) if state is None else state.first.length


class _StatefulMethod:
    """A method of a cache that also updates the state.

    A deep copy of the cache copies this object and its reference to the cache; a bound method or a closure would still
    refer to the original.
    """

    def __init__(self, cache: Any, name: str, update: Callable[..., CacheState | None]) -> None:
        self._cache = cache
        self._name = name
        self._update = update

    def belongs_to(self, cache: Any) -> bool:
        """Whether this is a method of this very cache."""
        return self._cache is cache

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        cache = self._cache
        result = getattr(type(cache), self._name)(cache, *args, **kwargs)
        state = getattr(cache, _ATTRIBUTE)
        if state is not None:
            setattr(cache, _ATTRIBUTE, self._update(cache, state, *args, *kwargs.values()))
        return result


def _select(_cache: Any, state: CacheState, index: Any) -> CacheState:
    return state.select(torch.as_tensor(index))


def _repeat(_cache: Any, state: CacheState, repeats: int) -> CacheState:
    return state.select(torch.arange(state.batch_size).repeat_interleave(int(repeats)))


def _crop(cache: Any, state: CacheState, _length: int) -> CacheState:
    # Older releases are given the length that remains, newer ones a negative number of positions to remove.
    return state.crop(int(cache.get_seq_length()))


def _reset(_cache: Any, _state: CacheState) -> None:
    return None


_UPDATES: dict[str, Callable[..., CacheState | None]] = {
    "batch_select_indices": _select,
    "reorder_cache": _select,
    "batch_repeat_interleave": _repeat,
    "crop": _crop,
    "reset": _reset,
}
