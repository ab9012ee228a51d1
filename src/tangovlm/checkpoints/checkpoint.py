"""Loading a checkpoint from a directory or the hub: its model, its tokenizer and its small files."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ModelError
from ..registry import family_for


class Checkpoint(NamedTuple):
    """A loaded checkpoint.

    Parameters
    ----------
    family: class of its family.
    model: the model.
    tokenizer: the tokenizer.
    pixels: preprocessor config of videos, empty if the checkpoint has none.
    template: the processor's chat template, None for the tokenizer's.
    """

    family: Any
    model: Any
    tokenizer: Any
    pixels: Mapping[str, Any]
    template: str | None


def read_json(source: str, name: str, *, local: bool) -> dict[str, Any] | None:
    """A JSON file of a checkpoint; None if the checkpoint has no such file.

    Parameters
    ----------
    source: directory or hub id.
    local: whether to use local files only.

    Raises
    ------
    ModelError: not JSON.
    """
    text = read_text(source, name, local=local)
    if text is None:
        return None
    try:
        parsed = json.loads(text)
    except json.JSONDecodeError as error:
        raise ModelError(f"{name} of {source} is not JSON ({error}): fetch the checkpoint again") from error
    if not isinstance(parsed, dict):
        raise ModelError(f"{name} of {source} is no JSON object: fetch the checkpoint again")
    return parsed


def read_text(source: str, name: str, *, local: bool) -> str | None:
    """A text file of a checkpoint, None if it has no such file; see `read_json` for the arguments.

    Raises
    ------
    ModelError: no such checkpoint, or the file is not UTF-8.
    """
    from transformers.utils import cached_file

    try:
        path = cached_file(
            source,
            name,
            local_files_only=local,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except OSError as error:
        raise ModelError(
            f"cannot open {source} ({first_line(error)}): give a checkpoint directory or a hub id"
        ) from error
    if path is None:
        return None
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ModelError(f"{name} of {source} is not UTF-8 text: fetch the checkpoint again") from error


def located(name: str | Path) -> tuple[str, bool]:
    """A directory or hub id as it is looked up, and whether it is a directory."""
    # An existing directory, or anything that looks like a path, is never looked up on the hub.
    local = Path(name).exists() or str(name).startswith((".", "/", "~"))
    # The folder of an unknown user stays as it is, and is missing.
    return os.path.expanduser(name) if local else str(name), local


def architecture(source: str, *, local: bool, reachable: bool = True) -> str:
    """Name of the model class, from config.json.

    Parameters
    ----------
    source: directory or hub id.
    local: whether it is a directory.
    reachable: whether the hub is, see `hub.reachable`; otherwise only files that were downloaded before are read.

    Raises
    ------
    ModelError: no such checkpoint, or its config names no class.
    """
    if local and not Path(source).is_dir():
        raise ModelError(f"{source} is not a directory: give a checkpoint directory or a hub id")
    config = read_json(source, "config.json", local=local or not reachable)
    if config is None and not local and not reachable:
        raise ModelError(
            f"{source} has not been downloaded, and the hub cannot be reached: give a checkpoint directory, or connect "
            "to the network"
        )
    if config is None:
        raise ModelError(f"{source} has no config.json, or cannot be reached: give a checkpoint directory or a hub id")
    names = config.get("architectures") or [config.get("model_type")]
    if not isinstance(names, list) or not isinstance(names[0], str):
        raise ModelError(f"config.json of {source} names no architecture: give the folder of a transformers model")
    return names[0]


def preprocessor_config(source: str, *, local: bool) -> dict[str, Any]:
    """The preprocessor config for videos, from the file that transformers reads; empty if there is none."""
    video = (read_json(source, "processor_config.json", local=local) or {}).get("video_processor")
    if video is None:
        video = read_json(source, "video_preprocessor_config.json", local=local)
    if video is None:
        video = read_json(source, "preprocessor_config.json", local=local)
    return video or {}


def chat_template(source: str, *, local: bool) -> str | None:
    """The processor's chat template, which supports videos; None if only the tokenizer has one."""
    template = read_text(source, "chat_template.jinja", local=local)
    if template is None:
        template = (read_json(source, "chat_template.json", local=local) or {}).get("chat_template")
        if not isinstance(template, str | None):
            raise ModelError(f"chat_template.json of {source} is no text: fetch the checkpoint again")
    return template


def read_tokenizer(tokenizer_class: Any, source: str, **options: Any) -> Any:
    """The tokenizer of a checkpoint; see `from_pretrained` for the options.

    Raises
    ------
    ModelError: its files cannot be read.
    """
    try:
        return tokenizer_class.from_pretrained(source, **options)
    except Exception as error:  # the library has no exception class of its own
        raise ModelError(
            f"cannot load the tokenizer of {source} ({type(error).__name__}: {first_line(error)}): fetch the "
            "checkpoint again"
        ) from error


def load(name: str, source: str, **options: Any) -> Checkpoint:
    """Load a checkpoint in the stock format.

    Parameters
    ----------
    name: of the model class.
    options: of `from_pretrained`.

    Raises
    ------
    ModelError: no family supports the architecture, or weights are missing or have another shape.
    """
    from transformers import AutoTokenizer

    family, local = family_for(name), bool(options.get("local_files_only"))
    model = family.load_model(source, **options)
    tokenizer = read_tokenizer(AutoTokenizer, source, local_files_only=local, trust_remote_code=False)
    return Checkpoint(
        family, model, tokenizer, preprocessor_config(source, local=local), chat_template(source, local=local)
    )


def load_complete(model_class: Any, source: str, *, weights: bool = True, **options: Any) -> Any:
    """Call `from_pretrained`, with an error for missing weights, which it would initialise at random.

    Parameters
    ----------
    weights: False to read the config only; the parameters are then on the meta device, which has shapes and no values.

    Raises
    ------
    ModelError: weights are missing, or have another shape than in the config.
    """
    if not weights:
        return _without_weights(model_class, source, **options)
    model, info = model_class.from_pretrained(source, output_loading_info=True, ignore_mismatched_sizes=True, **options)
    mismatched = sorted(str(entry[0]) for entry in info["mismatched_keys"])
    for what, names in (("lacks", sorted(info["missing_keys"])), ("has misshapen", mismatched)):
        if names:
            raise ModelError(f"{source} {what} {len(names)} weights, {names[0]} among them: fetch the checkpoint again")
    return model


def _without_weights(
    model_class: Any, source: str, *, dtype: Any = "auto", config: Any = None, local_files_only: bool = False, **_: Any
) -> Any:
    """A model from its config alone, on the meta device."""
    import torch
    from transformers import AutoConfig

    if config is None:
        config = AutoConfig.from_pretrained(source, local_files_only=local_files_only, trust_remote_code=False)
    number_type = dtype if isinstance(dtype, torch.dtype) else config.dtype or torch.float32
    with torch.device("meta"):
        if hasattr(model_class, "from_config"):
            return model_class.from_config(config, trust_remote_code=False).to(number_type)
        return model_class(config).to(number_type)


def first_line(error: Exception) -> str:
    """The first line of the message of another library's error."""
    return (str(error).splitlines() or [type(error).__name__])[0]
