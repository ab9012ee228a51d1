"""What a table of figures must say about how it came about."""

import hashlib
import os
import platform
from pathlib import Path
from typing import Any

import torch
import transformers

import tangovlm
from tangovlm.loading import BUILTIN, VideoLLM

from .task import NAME, VERSION, fingerprint


def header(llm: VideoLLM) -> dict[str, Any]:
    """The header of a file of results."""
    device = llm.family.device
    return {
        "benchmark": NAME,
        "version": VERSION,
        "questions": fingerprint(),
        "model": llm.name,
        "weights": weights_digest(llm),
        "dtype": str(llm.model.dtype).removeprefix("torch."),
        **machine(device),
    }


def machine(device: torch.device) -> dict[str, Any]:
    """Where figures were taken: the device by name, the machine, threads, and versions."""
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


def weights_digest(llm: VideoLLM) -> str:
    """SHA-256 of the checkpoint's files, where they lie in a folder; else of nothing but its name."""
    folder = BUILTIN if llm.builtin else Path(llm.name).expanduser()
    digest = hashlib.sha256(b"" if folder.is_dir() else llm.name.encode())
    for file in sorted(folder.glob("*.safetensors")) if folder.is_dir() else ():
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
