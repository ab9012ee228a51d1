"""The tested releases of the harnesses."""

import re
from importlib.metadata import PackageNotFoundError, version

from tangovlm.errors import InputError

TESTED = {"lmms-eval": "0.7.3", "ms-vlmeval": "0.0.20"}
"""Distribution to the release that `make test-harness` tests."""


def check(distribution: str) -> None:
    """Check that a harness is installed in the tested release or a later patch of the same minor release.

    Raises
    ------
    InputError: the harness is missing or has another release.
    """
    tested = TESTED[distribution]
    try:
        found = version(distribution)
    except PackageNotFoundError as error:
        raise InputError(
            f"{distribution} is not installed: pip install {distribution}=={tested}, see docs/harnesses.md"
        ) from error
    if not _fits(found, tested):
        raise InputError(
            f"{distribution} {found} is not tested with this version of tangovlm: "
            f"pip install {distribution}=={tested}, see docs/harnesses.md"
        )


def _fits(found: str, tested: str) -> bool:
    numbers, least = _numbers(found), _numbers(tested)
    return numbers[:2] == least[:2] and numbers >= least


def _numbers(text: str) -> tuple[int, ...]:
    """The release part of a version: `0.7.3` for `0.7.3.post1`."""
    return tuple(map(int, (re.match(r"\d+(\.\d+)*", text) or ["0"])[0].split(".")))
