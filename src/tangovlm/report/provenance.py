"""The device, machine and versions that a measurement ran on."""

import os
import platform
from pathlib import Path
from typing import Any

import torch
import transformers

import tangovlm


def machine(device: torch.device) -> dict[str, Any]:
    """The entries `device`, `machine`, `threads` and `versions` of a measurement."""
    versions: dict[str, str | None] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tangovlm": tangovlm.__version__,
    }
    if device.type == "cuda":
        versions["cuda"] = torch.version.cuda
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "machine": {"cpu": _cpu_name(), "cores": os.cpu_count(), "system": platform.system()},
        "threads": torch.get_num_threads(),
        "versions": versions,
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
