"""Finds an installed VLMEvalKit, or a checkout of it."""

import importlib.util
import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from tangovlm.errors import InputError

from .. import versions

DISTRIBUTION = "ms-vlmeval"
INSTALL = f"pip install {DISTRIBUTION}=={versions.TESTED[DISTRIBUTION]}"
TESTED_CHECKOUT = "0.2rc1"
"""The `__version__` of a checkout, which rarely changes; commit e8e78f05 is tested."""


@dataclass(frozen=True)
class Installation:
    """The location and version of VLMEvalKit.

    Parameters
    ----------
    script: its `run.py`.
    path: directory from which `vlmeval` is imported; None for the installed package.
    version: of the distribution or the checkout.
    """

    script: Path
    path: Path | None
    version: str


def find(checkout: Path | None = None, untested: bool = False) -> Installation:
    """Find VLMEvalKit without importing it.

    Parameters
    ----------
    checkout: directory of a checkout; None for the installed package.
    untested: whether an untested version is accepted.

    Raises
    ------
    InputError: VLMEvalKit is not found, has no `run.py`, or has an untested version.
    """
    if checkout is None:
        spec = importlib.util.find_spec("vlmeval")
        if spec is None or spec.origin is None:
            raise InputError(
                f"VLMEvalKit is not installed: {INSTALL}, or name a checkout with --vlmevalkit DIR; see "
                "docs/harnesses.md"
            )
        package, path = Path(spec.origin).parent, None
    else:
        package, path = checkout / "vlmeval", checkout
        if not (package / "__init__.py").is_file():
            raise InputError(f"--vlmevalkit {checkout} is no checkout of VLMEvalKit: it has no vlmeval/__init__.py")
    # The script is inside the package of a distribution, and beside the package in a checkout.
    script = next((file for file in (package / "run.py", package.parent / "run.py") if file.is_file()), None)
    if script is None:
        raise InputError(f"VLMEvalKit in {package} has no run.py: {INSTALL}, or name a checkout with --vlmevalkit DIR")
    if script.parent == package and checkout is None:
        if not untested:
            versions.check(DISTRIBUTION)
        return Installation(script, path, metadata.version(DISTRIBUTION))
    found = re.search(r"^__version__ = ['\"](.+)['\"]", (package / "__init__.py").read_text(encoding="utf-8"), re.M)
    version = found[1] if found else "unknown"
    if version != TESTED_CHECKOUT and not untested:
        raise InputError(
            f"VLMEvalKit in {package.parent} has version {version}, and {TESTED_CHECKOUT} is tested: {INSTALL}, or "
            "continue with --untested"
        )
    return Installation(script, path, version)
