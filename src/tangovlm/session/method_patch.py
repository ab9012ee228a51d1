"""Methods and hooks on one instance of a model, for as long as a context lasts.

A copy or a pickle of the model that is made meanwhile is a plain model: what is put on an instance knows how to be
copied, and becomes the instance's own method again, or a hook that does nothing.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from types import MethodType
from typing import Any


class Shadow:
    """Stands in an instance's dictionary in front of a method of its class.

    Parameters
    ----------
    owner: the instance.
    name: of the method.
    wrapper: is given the original method, and then the arguments of a call.
    """

    def __init__(self, owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
        # Stock code selects arguments by the signature, which is looked for behind `__wrapped__`.
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
        return _itself, (self.__wrapped__,)


@contextmanager
def shadowed(owner: Any, name: str, wrapper: Callable[..., Any]) -> Iterator[Shadow]:
    """Hide a method of one instance behind a wrapper that gets the original as its first argument; yields the shadow.

    An attribute that the instance had under this name before is put back on exit.
    """
    replaced = vars(owner).get(name)
    shadow = Shadow(owner, name, wrapper)
    setattr(owner, name, shadow)
    try:
        yield shadow
    finally:
        delattr(owner, name)
        if replaced is not None:
            setattr(owner, name, replaced)


class Hook:
    """A hook on a module, which a copy of the module does not have."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    def __deepcopy__(self, _memo: dict[int, Any]) -> Any:
        return _nothing

    def __reduce__(self) -> Any:
        return _itself, (_nothing,)


def as_copyable(handle: Any) -> None:
    """Make the function that a handle stands for, as `register_forward_hook` returns it, a `Hook`."""
    hooks = handle.hooks_dict_ref()
    hooks[handle.id] = Hook(hooks[handle.id])


def _itself(value: Any) -> Any:
    return value


def _nothing(*_args: Any, **_kwargs: Any) -> None:
    """What a hook is in a copy."""
