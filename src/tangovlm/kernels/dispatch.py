"""Which variant of a kernel runs where."""

from functools import cache
from importlib.util import find_spec

import torch

NO_TRITON = "Triton is not installed: on this GPU the slower PyTorch kernels ran (pip install triton)"


def variant(device: torch.device) -> str:
    """ "triton" for a CUDA device where Triton can be imported, else "torch"."""
    return "triton" if device.type == "cuda" and _has_triton() else "torch"


def fallback_note(device: torch.device) -> tuple[str, ...]:
    """What a report should say where a device has no kernels of its own."""
    return (NO_TRITON,) if device.type == "cuda" and not _has_triton() else ()


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None
