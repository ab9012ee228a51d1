"""Run a check within a program without any change that the program can observe."""

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, TypeVar

import torch

T = TypeVar("T")

# Typed as a module, whose attributes cannot be set.
_onednn: Any = torch.backends.mkldnn
_isolated: ContextVar[bool] = ContextVar("isolated", default=False)


def is_isolated() -> bool:
    """Whether the caller runs within `run_isolated`."""
    return _isolated.get()


def run_isolated(work: Callable[[], T]) -> T:
    """Call `work` in a new thread, wait for it, and return its result or raise its error.

    Grad and inference mode, autocast, `torch.device` contexts, function modes and context variables belong to a thread,
    so `work` has the defaults. Settings of the process are changed for the check and restored at the end: the default
    dtype, float32 products of lower precision on CPUs, warning filters, and the verbosity of transformers.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def target() -> None:
        _isolated.set(True)
        try:
            with _plain_settings():
                results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=target, name="tangovlm-check", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


@contextmanager
def _plain_settings() -> Iterator[None]:
    from transformers.utils import logging

    dtype, verbosity, onednn = torch.get_default_dtype(), logging.get_verbosity(), _onednn.enabled
    try:
        torch.set_default_dtype(torch.float32)
        # On CPUs, oneDNN multiplies with lower precision if `torch.set_float32_matmul_precision` allows it.
        _enable_onednn(False)
        logging.set_verbosity_error()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        _enable_onednn(onednn)
        torch.set_default_dtype(dtype)


def _enable_onednn(enabled: bool) -> None:
    # Fails if the program has called `torch.backends.disable_global_flags`.
    with suppress(RuntimeError):
        _onednn.enabled = enabled
