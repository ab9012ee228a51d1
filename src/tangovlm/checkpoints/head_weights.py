"""Weights of SigLIP's attention-pooling head, of a model or of a safetensors checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..errors import ModelError
from ..machine.devices import weights_of
from . import hub
from .checkpoint import read_json

_PUBLISHED_HEAD = "google/siglip-so400m-patch14-384"
_PUBLISHED_WIDTH = 1152

_PREFIX = "vision_model."
_NAMES = ("head.", "post_layernorm.")
_HINT = (
    "give head_weights=FILE.safetensors (or --head-weights) with SigLIP's vision head, or use saliency='attn' "
    "and a method without frame features"
)


def find_head_weights(tower: Any, width: int, source: str | Path | None) -> dict[str, Tensor]:
    """Weights of the pooling head of a SigLIP tower, under the names of a SigLIP checkpoint.

    Parameters
    ----------
    tower: the SigLIP vision model; its own head is used if it has one and `source` is None.
    width: hidden size of the tower.
    source: see `load_head_weights`; None for the tower's own head, or the published one of its width.

    Raises
    ------
    ModelError: none is available, the tower's own is quantised, or the head has another width.
    """
    weights = _head_weights(tower, width, source)
    found = weights["head.probe"].shape[-1]
    if found != width:
        raise ModelError(
            f"head_weights {source} is {found} wide but the tower {width}: "
            "give the head of the SigLIP that the tower was made from"
        )
    return weights


def _head_weights(tower: Any, width: int, source: str | Path | None) -> dict[str, Tensor]:
    if source is not None:
        return load_head_weights(source)
    head = getattr(tower, "head", None)
    if isinstance(head, nn.Module):
        parts = {"head": head, "post_layernorm": tower.post_layernorm}
        weights = {f"{part}.{name}": value for part in parts for name, value in weights_of(parts[part]).items()}
        quantised = [name for name, value in weights.items() if not value.is_floating_point()]
        if quantised:
            raise ModelError(
                f"{quantised[0]} is quantised: give head_weights=FILE.safetensors (or --head-weights), or load the "
                "model with llm_int8_skip_modules=['head']"
            )
        return weights
    if width != _PUBLISHED_WIDTH:
        raise ModelError(
            f"this checkpoint has no pooling head and no published one is {width} wide: "
            "give head_weights=FILE.safetensors (or --head-weights), or use saliency='attn' and a method without "
            "frame features"
        )
    return load_head_weights(_PUBLISHED_HEAD)


def load_head_weights(source: str | Path) -> dict[str, Tensor]:
    """Tensors ``head.*`` and ``post_layernorm.*`` of a SigLIP vision model, with or without the prefix
    ``vision_model.``.

    Parameters
    ----------
    source: a safetensors file, a checkpoint directory (one file, or shards with an index), or a hub id.

    Raises
    ------
    ModelError: no such file or checkpoint, not a safetensors file, or the tensors are missing.
    """
    path = Path(source)
    if path.is_dir():
        files = _files_of_directory(path)
    elif path.is_file():
        files = [path]
    elif path.suffix == ".safetensors" or str(source).startswith((".", "/", "~")):
        raise ModelError(f"there is no {source}: {_HINT}")
    else:
        files = [_download(str(source))]
    weights: dict[str, Tensor] = {}
    for file in files:
        weights |= _read(file)
    missing = [name for name in ("post_layernorm.weight", "head.probe", "head.mlp.fc2.bias") if name not in weights]
    if missing:
        raise ModelError(f"{source} has no {_PREFIX}{missing[0]}: {_HINT}")
    return weights


def _files_of_directory(folder: Path) -> list[Path]:
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    index = read_json(str(folder), "model.safetensors.index.json", local=True)
    if index is None:
        raise ModelError(f"{folder} has no model.safetensors: {_HINT}")
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, Mapping) or not all(isinstance(file, str) for file in weight_map.values()):
        raise ModelError(f"model.safetensors.index.json of {folder} names no files of weights: {_HINT}")
    names = {file for name, file in weight_map.items() if name.removeprefix(_PREFIX).startswith(_NAMES)}
    # Only the name of the file: an index must not point outside its folder.
    return [folder / Path(name).name for name in sorted(names)]


def _download(repo: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repo, "model.safetensors", local_files_only=not hub.reachable()))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(f"cannot get model.safetensors of {repo} ({type(error).__name__}): {_HINT}") from error


def _read(file: Path) -> dict[str, Tensor]:
    try:
        with safe_open(file, framework="pt") as tensors:
            names = {name: name.removeprefix(_PREFIX) for name in tensors.keys()}  # noqa: SIM118 (not a dict)
            return {short: tensors.get_tensor(name) for name, short in names.items() if short.startswith(_NAMES)}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"cannot read {file} ({error}): {_HINT}") from error
