"""The model families: the checks of `selfcheck` on the tiny twin of every model class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from importlib import import_module

from ..errors import InputError
from ..selfcheck.twins import TWINS, available
from .rows import Examination, one_line

PART = "families"


def select(family: str | None) -> list[str]:
    """The names of the twins of a family that the installed transformers has; of all families for None.

    Raises
    ------
    InputError: an unknown family.
    """
    names = [name for name in available() if family in (None, TWINS[name].family)]
    if not names:
        known = ", ".join(sorted({TWINS[name].family for name in available()}))
        raise InputError(f"unknown family {family!r}: choose one of {known}")
    return names


def examinations(names: Sequence[str]) -> Iterator[Examination]:
    """One for each twin, or a single one if the checks cannot be imported."""
    checks = partial(import_module, "tangovlm.selfcheck.checks")
    try:
        checks()
    except Exception:
        yield Examination(PART, "all", lambda: checks().__name__)
        return
    for name in names:
        yield Examination(PART, _title(name), partial(_run, name))


def _title(name: str) -> str:
    """The family of a twin, with the name of the twin if the family has several."""
    family = TWINS[name].family
    several = sum(entry.family == family for entry in TWINS.values()) > 1
    return f"{family} ({name})" if several else family


def _run(name: str) -> str:
    """The number of checks.

    Raises
    ------
    RuntimeError: a check fails.
    """
    from ..selfcheck.isolation import run_isolated

    passed, failed = run_isolated(partial(_checks, name))
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(passed) + len(failed)} checks fail: {'; '.join(failed)}")
    return f"{len(passed)} checks"


def _checks(name: str) -> tuple[list[str], list[str]]:
    """The names of the passed checks of a twin, and of the failed ones with their errors."""
    from ..selfcheck.checks import Checks
    from ..selfcheck.twins import load
    from ..session.attach import attach

    passed, failed = list[str](), list[str]()
    for check, run in Checks(load(name)(), attach).all().items():
        try:
            run()
            passed.append(check)
        except Exception as error:
            failed.append(f"{check}: {one_line(error)}")
    return passed, failed
