"""Methods and hooks on one instance of a model, for as long as a context lasts.

A copy or a pickle of a patched model is a plain model: in a copy, a patched method is the instance's own method again,
and a hook does nothing.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from types import MethodType
from typing import Any


class MethodPatch:
    """An attribute of an instance that hides a method of its class.

    Parameters
    ----------
    owner: the instance.
    name: of the method.
    wrapper: called with the original method and the arguments of a call.
    """

    def __init__(self, owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
        # Stock code selects arguments by the signature, which `inspect` reads from `__wrapped__`.
        self.__wrapped__ = getattr(owner, name)
        functools.update_wrapper(self, self.__wrapped__)
        self._owner = owner
        self._method = name
        self._wrapper = wrapper

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._wrapper(self.__wrapped__, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        owner = memo.get(id(self._owner))
        if owner is None:
            return self.__wrapped__
        if getattr(self.__wrapped__, "__self__", None) is self._owner:
            return MethodType(self.__wrapped__.__func__, owner)
        return deepcopy(self.__wrapped__, memo)

    def __reduce__(self) -> Any:
        if getattr(self.__wrapped__, "__self__", None) is self._owner:
            return getattr, (self._owner, self._method)
        return _identity, (self.__wrapped__,)


@contextmanager
def patch_method(owner: Any, name: str, wrapper: Callable[..., Any]) -> Iterator[MethodPatch]:
    """Replace a method of one instance by a wrapper, which gets the original as its first argument; yields the patch.

    On exit, an attribute that the instance had under this name is restored.
    """
    replaced = vars(owner).get(name)
    patch = MethodPatch(owner, name, wrapper)
    setattr(owner, name, patch)
    try:
        yield patch
    finally:
        delattr(owner, name)
        if replaced is not None:
            setattr(owner, name, replaced)


class CopyableHook:
    """A hook on a module; in a copy of the module it does nothing."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    def __deepcopy__(self, _memo: dict[int, Any]) -> Any:
        return _do_nothing

    def __reduce__(self) -> Any:
        return _identity, (_do_nothing,)


def make_copyable(handle: Any) -> None:
    """Turn the hook of a handle, as `register_forward_hook` returns it, into a `CopyableHook`."""
    hooks = handle.hooks_dict_ref()
    hooks[handle.id] = CopyableHook(hooks[handle.id])


def _identity(value: Any) -> Any:
    return value


def _do_nothing(*_args: Any, **_kwargs: Any) -> None:
    """A hook in a copy of its module."""
