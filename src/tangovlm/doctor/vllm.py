"""What the plug-in for vLLM builds on, looked at in the vLLM that is installed."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from .rows import Examination, NotInstalledError

PART = "vllm"


def examinations() -> Iterator[Examination]:
    """All parts that `serve.seams` names, in one row."""
    yield Examination(PART, "seams of the plug-in", _seams)


def _seams() -> str:
    if find_spec("vllm") is None:
        raise NotInstalledError("only for serving")
    from ..serve import compat

    release = compat.installed()
    found = compat.check_seams()
    wrong = [f"{name}: {state}" for name, state in found if state != compat.OK]
    if wrong:
        raise RuntimeError(f"vLLM {release}, {len(wrong)} of {len(found)} parts are others: {'; '.join(wrong)}")
    tested = "tested" if compat.is_tested(release) else f"not tested ({', '.join(compat.TESTED)} is)"
    return f"vLLM {release}, {tested}: {len(found)} parts are as the plug-in knows them"
