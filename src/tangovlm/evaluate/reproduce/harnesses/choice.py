"""Which harness `tangovlm reproduce` uses."""

from tangovlm.errors import InputError

from ...harness import versions
from .base import Harness, version
from .lmms_eval import LmmsEval
from .vlmevalkit import VLMEvalKit


def choose(name: str | None, *, timed: bool = False) -> tuple[Harness, str | None]:
    """A harness, and a note if it is not the default.

    Parameters
    ----------
    name: the user's choice; None for the default, VLMEvalKit, with which the paper measures accuracy.
    timed: whether times are compared; the default is then lmms-eval, with which the paper measures times.

    Raises
    ------
    InputError: an unknown harness.
    """
    harnesses: list[Harness] = [VLMEvalKit(), LmmsEval()]
    if name is not None:
        for harness in harnesses:
            if harness.name == name:
                return harness, None
        raise InputError(f"--harness is {name!r}: choose {' or '.join(each.name for each in harnesses)}")
    default, other = reversed(harnesses) if timed else harnesses
    if version(default) is None and version(other) is not None:
        return other, f"{default.name} is not installed: {other.name} is used, whose prompts and answers differ"
    return default, None


def check_installed(harness: Harness) -> None:
    """Raise `InputError` if a harness is missing or has an untested version; the message says how to install it."""
    versions.check(harness.distribution)
