"""The internals of vLLM that the plug-in uses, checked in the installed release."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from .rows import Examination, NotInstalledError

PART = "vllm"


def examinations() -> Iterator[Examination]:
    """All internals of vLLM that `serve.internals` lists, in one row."""
    yield Examination(PART, "internals that the plug-in uses", _check_internals)


def _check_internals() -> str:
    if find_spec("vllm") is None:
        raise NotInstalledError("only for serving")
    from ..serve import compatibility

    release = compatibility.installed_release()
    found = compatibility.check_internals()
    wrong = [f"{name}: {state}" for name, state in found if state != compatibility.OK]
    if wrong:
        raise RuntimeError(f"vLLM {release}, {len(wrong)} of {len(found)} internals differ: {'; '.join(wrong)}")
    tested = "tested" if compatibility.is_tested(release) else f"not tested ({', '.join(compatibility.TESTED)} is)"
    return f"vLLM {release}, {tested}: {len(found)} internals are as the plug-in expects"
