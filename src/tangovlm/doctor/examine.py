"""All examinations of `tangovlm doctor`, in the order of its table."""

from __future__ import annotations

from collections.abc import Iterator

from . import cache, devices, families, kernels, packages, video, vllm
from .rows import Examination


def examine(family: str | None = None) -> Iterator[Examination]:
    """Yield all examinations, or only those of the installation and of one family.

    Raises
    ------
    InputError: an unknown family.
    """
    names = families.select(family)
    parts = [packages.examinations(), devices.examinations(), families.examinations(names)]
    if family is None:
        parts += [kernels.examinations(), video.examinations(), vllm.examinations()]
    parts.append(cache.examinations())
    for part in parts:
        yield from part
