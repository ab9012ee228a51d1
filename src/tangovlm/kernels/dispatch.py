"""Which variant of a kernel runs where."""

from functools import cache
from importlib.util import find_spec

import torch

NO_TRITON = "Triton is not installed: on this GPU the slower PyTorch kernels ran (pip install triton)"
OLD_DEVICE = "this GPU is older than compute capability 8.0: the slower PyTorch kernels ran"
_LEAST = (8, 0)  # what the Triton kernels are compiled and tuned for


def variant(device: torch.device) -> str:
    """The kernels that a device runs: "triton" on CUDA where Triton and the device allow it, else "torch"."""
    return "triton" if device.type == "cuda" and not fallback_note(device) else "torch"


def fallback_note(device: torch.device) -> tuple[str, ...]:
    """What a report should say where a GPU does without the kernels that were made for it."""
    if device.type != "cuda":
        return ()
    if not _has_triton():
        return (NO_TRITON,)
    return () if _capability(device) >= _LEAST else (OLD_DEVICE,)


@cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None
