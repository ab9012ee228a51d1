"""States that a cache carries: what must be known of its rows and positions beside keys and values.

A state changes with the cache: rows that are picked, repeated or put in another order, positions that are cut off, and
a cache that is emptied. The methods of the cache that do so are wrapped on the instance, once it carries a state. A
copy of a cache carries copies of its states.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from ..errors import InputError

_ATTRIBUTE = "_tangovlm_carried"


class State(Protocol):
    """What a cache carries."""

    @property
    def batch(self) -> int:
        """Rows of the cache."""
        ...

    def picked(self, index: Tensor) -> Any:
        """The state of some rows, ``(B',)`` int64; one may be named more than once."""
        ...

    def cropped(self, length: int) -> Any:
        """The state of the first so many positions of the cache's first layer."""
        ...


S = TypeVar("S", bound=State)


def carry(cache: Any, state: State) -> None:
    """Let a cache carry a state; an earlier one of the same class gives way."""
    if _ATTRIBUTE not in vars(cache):
        setattr(cache, _ATTRIBUTE, {})
        for name, effect in _EFFECTS.items():
            if hasattr(cache, name):
                setattr(cache, name, _Tracked(cache, name, effect))
    vars(cache)[_ATTRIBUTE][type(state)] = state


def carried(cache: Any, kind: type[S]) -> S | None:
    """The state of a class that a cache carries, cut to the cache's present length; None if it carries none.

    Raises
    ------
    InputError: a shallow copy of a cache.
    """
    states = getattr(cache, _ATTRIBUTE, None)
    if not states:
        return None
    state: S | None = states.get(kind)
    if state is None:
        return None
    tracked = next((value for value in vars(cache).values() if isinstance(value, _Tracked)), None)
    if tracked is not None and not tracked.of(cache):
        raise InputError("this cache is a shallow copy of another one: make it with copy.deepcopy")
    # A compilable cache keeps its length on the device: do not synchronise for it. Its own `crop` is seen to.
    return state if getattr(cache, "is_compileable", False) else state.cropped(int(cache.get_seq_length()))


def check_rows(state: State, batch: int) -> None:
    """Raise `InputError` where a batch of other rows than those of its cache is read."""
    if state.batch != batch:
        raise InputError(
            f"the cache has {state.batch} rows, but {batch} are to be read: pick or repeat its rows with "
            "batch_select_indices or batch_repeat_interleave of the cache itself"
        )


def drop(cache: Any) -> None:
    """Take all states away from a cache, for one that was emptied."""
    if states := getattr(cache, _ATTRIBUTE, None):
        states.clear()


class _Tracked:
    """A method of a cache that changes the states along.

    Its reference to the cache is copied with the cache, other than that of a bound method or a closure.
    """

    def __init__(self, cache: Any, name: str, effect: Callable[..., None]) -> None:
        self._cache = cache
        self._name = name
        self._effect = effect

    def of(self, cache: Any) -> bool:
        """Whether it belongs to this very cache."""
        return self._cache is cache

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        made = getattr(type(self._cache), self._name)(self._cache, *args, **kwargs)
        self._effect(self._cache, *args, *kwargs.values())
        return made


def _each(cache: Any, change: Callable[[Any], Any]) -> None:
    states = vars(cache)[_ATTRIBUTE]
    for kind, state in states.items():
        states[kind] = change(state)


def _pick(cache: Any, index: Any) -> None:
    _each(cache, lambda state: state.picked(torch.as_tensor(index)))


def _repeat(cache: Any, repeats: int) -> None:
    _each(cache, lambda state: state.picked(torch.arange(state.batch).repeat_interleave(int(repeats))))


def _crop(cache: Any, _length: int) -> None:
    # Older releases take the length that is left, newer ones a negative number of positions to take off.
    _each(cache, lambda state: state.cropped(int(cache.get_seq_length())))


def _reset(cache: Any) -> None:
    drop(cache)


_EFFECTS: dict[str, Callable[..., None]] = {
    "batch_select_indices": _pick,
    "reorder_cache": _pick,
    "batch_repeat_interleave": _repeat,
    "crop": _crop,
    "reset": _reset,
}
