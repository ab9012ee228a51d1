"""The devices that models can run on: their properties, and whether they multiply matrices correctly."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from .rows import Examination, NotInstalledError

PART = "devices"


def examinations() -> Iterator[Examination]:
    """The CPU, and each visible CUDA device."""
    yield Examination(PART, "cpu", _cpu)
    names = cuda_devices()
    if not names:
        yield Examination(PART, "cuda", _no_cuda)
    for name in names:
        yield Examination(PART, name, partial(_cuda, name))


def cuda_devices() -> list[str]:
    """Names of the CUDA devices that torch finds."""
    try:
        import torch

        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    except Exception:
        # A broken torch is reported in its own row.
        return []


def _cpu() -> str:
    import torch

    _check_product("cpu")
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{_cpu_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads of torch, {capability}"


def _no_cuda() -> str:
    import torch

    build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    raise NotInstalledError(f"torch {torch.__version__} finds no device ({build})")


def _cuda(name: str) -> str:
    import torch

    from ..kernels import fallback_note, variant

    device = torch.device(name)
    _check_product(name)
    properties = torch.cuda.get_device_properties(device)
    notes = "; ".join(fallback_note(device)) or f"{variant(device)} kernels"
    return (
        f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, compute capability "
        f"{properties.major}.{properties.minor}, CUDA {torch.version.cuda}, {notes}"
    )


def _check_product(device: str) -> None:
    """Compare a product of integer matrices, which has no rounding, with plain arithmetic."""
    import torch

    rows = [[(3 * i + 5 * j) % 7 - 3 for j in range(16)] for i in range(16)]
    expected = [
        [sum(a * b for a, b in zip(row, column, strict=True)) for column in zip(*rows, strict=True)] for row in rows
    ]
    matrix = torch.tensor(rows, dtype=torch.float32, device=device)
    if (matrix @ matrix).tolist() != expected:
        raise RuntimeError("the product of two matrices of small integers is wrong")


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
