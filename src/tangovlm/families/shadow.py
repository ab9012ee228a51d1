"""A method of one instance hidden behind a wrapper, for as long as a context lasts."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def shadowed(owner: Any, name: str, wrapper: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Hide a method of one instance behind a wrapper that gets the original as its first argument; yields the shadow.

    An attribute that the instance had under this name before is put back on exit.
    """
    original = getattr(owner, name)
    replaced = vars(owner).get(name)

    # Stock code selects arguments by the signature, which `wraps` keeps.
    @functools.wraps(original)
    def shadow(*args: Any, **kwargs: Any) -> Any:
        return wrapper(original, *args, **kwargs)

    setattr(owner, name, shadow)
    try:
        yield shadow
    finally:
        delattr(owner, name)
        if replaced is not None:
            setattr(owner, name, replaced)
