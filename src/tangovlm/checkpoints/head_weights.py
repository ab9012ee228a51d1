"""SigLIP's pooling head read from a published checkpoint: only the tensors that are needed, from safetensors only."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import ModelError
from .checkpoint import read_json

_PREFIX = "vision_model."
_WANTED = ("head.", "post_layernorm.")
_HINT = (
    "give head_weights=FILE.safetensors (or --head-weights) with SigLIP's vision head, or use saliency='attn' "
    "and a method without frame features"
)


def load_head_weights(source: str | Path) -> dict[str, Tensor]:
    """Tensors ``head.*`` and ``post_layernorm.*`` of a SigLIP vision model, with or without the prefix
    ``vision_model.``.

    Parameters
    ----------
    source: a safetensors file, a checkpoint directory (one file, or shards with an index), or a hub id.

    Raises
    ------
    ModelError: nothing there, not a safetensors file, or the tensors are not in it.
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
    names = {file for name, file in weight_map.items() if name.removeprefix(_PREFIX).startswith(_WANTED)}
    # Only the bare name: an index must not lead outside its folder.
    return [folder / Path(name).name for name in sorted(names)]


def _download(repo: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repo, "model.safetensors"))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(f"cannot get model.safetensors of {repo} ({type(error).__name__}): {_HINT}") from error


def _read(file: Path) -> dict[str, Tensor]:
    try:
        with safe_open(file, framework="pt") as tensors:
            names = {name: name.removeprefix(_PREFIX) for name in tensors.keys()}  # noqa: SIM118 (not a dict)
            return {short: tensors.get_tensor(name) for name, short in names.items() if short.startswith(_WANTED)}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"cannot read {file} ({error}): {_HINT}") from error
