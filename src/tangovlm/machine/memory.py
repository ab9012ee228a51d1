"""What to say when there is too little memory."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..errors import InputError


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception says that memory could not be had; the CPU's allocator raises a plain RuntimeError."""
    words = ("not enough memory", "can't allocate memory", "cannot allocate memory")
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(word in str(error).lower() for word in words)


@contextmanager
def memory_guard(device: torch.device, what: str, way_out: str) -> Iterator[None]:
    """Turn running out of memory within into an error that says how to mend it.

    Raises
    ------
    InputError: there is too little memory on ``device`` for ``what``; says the ``way_out``.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(f"{device} is out of memory: {what}; {way_out}") from error
