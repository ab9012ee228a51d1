"""Error messages for running out of memory."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..errors import InputError


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception reports a failed allocation; the CPU allocator raises a plain RuntimeError."""
    words = ("not enough memory", "can't allocate memory", "cannot allocate memory")
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(word in str(error).lower() for word in words)


@contextmanager
def memory_guard(device: torch.device, what: str, way_out: str) -> Iterator[None]:
    """Convert an out-of-memory error inside the context into an `InputError` that says how to fix it.

    Raises
    ------
    InputError: there is not enough memory on ``device`` for ``what``; the message ends with ``way_out``.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(f"{device} is out of memory: {what}; {way_out}") from error
