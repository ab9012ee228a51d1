"""What a file of results says about how it came about."""

import hashlib
from pathlib import Path
from typing import Any

from tangovlm.pipeline.load import BUILTIN, VideoLLM
from tangovlm.report.provenance import machine

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


def weights_digest(llm: VideoLLM) -> str:
    """SHA-256 of the checkpoint's files, where they lie in a folder; else of nothing but its name."""
    folder = BUILTIN if llm.builtin else Path(llm.name).expanduser()
    digest = hashlib.sha256(b"" if folder.is_dir() else llm.name.encode())
    for file in sorted(folder.glob("*.safetensors")) if folder.is_dir() else ():
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
