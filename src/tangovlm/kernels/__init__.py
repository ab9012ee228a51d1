"""Hot operations: one folder each, with a plain reference next to the fast variants.

`variant` decides which one runs on a device.
"""

from functools import cache
from importlib.util import find_spec

import torch

NO_TRITON = "Triton is not installed: on this GPU the slower PyTorch kernels ran (pip install triton)"
OLD_DEVICE = "this GPU is older than compute capability 8.0: the slower PyTorch kernels ran"
_MIN_CAPABILITY = (8, 0)  # the Triton kernels are compiled and tuned for it


def variant(device: torch.device) -> str:
    """The kernels that run on a device: "triton" on CUDA if Triton and the device allow it, else "torch"."""
    return "triton" if device.type == "cuda" and not fallback_note(device) else "torch"


def fallback_note(device: torch.device) -> tuple[str, ...]:
    """A note for the report if a GPU cannot run the Triton kernels."""
    if device.type != "cuda":
        return ()
    if not _has_triton():
        return (NO_TRITON,)
    return () if _capability(device) >= _MIN_CAPABILITY else (OLD_DEVICE,)


@cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None
