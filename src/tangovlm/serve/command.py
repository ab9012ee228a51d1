"""The command line of `vllm serve` for a model whose videos are pruned."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import InputError
from ..pipeline.load import BUILTIN
from .options import CONFIG_KEY, ServeOptions

OVERRIDES = "--hf-overrides"
_SEVERAL_VALUES = frozenset({"--served-model-name", "--lora-modules", "--api-key", "--allowed-media-domains"})
"""Options of `vllm serve` that may go with any model and take more than one word."""
BUILTIN_NAME = "tangovlm-tiny"
"""What the embedded model is called by the API, where its path would be."""


def serve_arguments(
    model: str | None, options: ServeOptions | None, extra: Sequence[str] = (), *, frames: int | None = None
) -> list[str]:
    """``vllm serve MODEL --hf-overrides '{"tango": {...}}' ...``, one entry a word.

    Parameters
    ----------
    model: directory or hub id; None for the embedded model.
    options: how its videos are pruned; None for what `extra` says, or else for the defaults.
    extra: options of vLLM, handed through; an ``--hf-overrides`` among them is merged with ours.
    frames: how many frames to take of a video; None for vLLM's own number.

    Raises
    ------
    InputError: an ``--hf-overrides`` that is no JSON object, comes twice, or prunes too; `frames` beside
        ``--media-io-kwargs``.
    """
    return ["vllm", "serve", str(model or BUILTIN), *engine_options(model, options, extra), *_media(frames, extra)]


def engine_options(model: str | None, options: ServeOptions | None, extra: Sequence[str]) -> list[str]:
    """Options of any command of vLLM that make it load a model with pruning; see `serve_arguments`."""
    given, rest = _take_overrides(extra)
    if options is not None and CONFIG_KEY in given:
        raise InputError(
            f"{OVERRIDES} has a key {CONFIG_KEY!r} beside options that say the same: leave one of them out"
        )
    if CONFIG_KEY in given:
        ServeOptions.from_mapping(given[CONFIG_KEY])
    else:
        given = {**given, CONFIG_KEY: (options or ServeOptions()).as_mapping()}
    return [OVERRIDES, json.dumps(given, ensure_ascii=False), *_builtin_options(model, rest), *rest]


def split_model(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The model, None where none is named, and the options of vLLM.

    It comes first, as in `vllm serve`, or as an option of its own.

    Raises
    ------
    InputError: an empty name, two models, or one behind options.
    """
    first = [words[0]] if words and not words[0].startswith("-") else []
    named, rest = _take(words[len(first) :], "--model")
    models = first + named
    if len(models) > 1:
        raise InputError(f"MODEL is given twice, as {' and '.join(models)}: leave one of them out")
    if models and not models[0].strip():
        raise InputError("MODEL is empty: give a folder or a hub id, or leave it out for the embedded model")
    if not models and (stray := _stray(rest)) is not None:
        raise InputError(f"{stray} is no value of an option: if it is the model, MODEL comes first, before all options")
    return (models[0] if models else None), rest


def _stray(words: Sequence[str]) -> str | None:
    """A word that follows the value of an option which takes one."""
    option, values = "", 0
    for word in words:
        if word.startswith("-") and not _is_number(word):
            option, values = _name(word), int("=" in word)
        else:
            values += 1
            if values > 1 and option not in _SEVERAL_VALUES:
                return word
    return None


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def media_io(frames: int) -> dict[str, dict[str, int]]:
    """vLLM's ``media_io_kwargs`` for so many frames of a video, at least 2.

    Its loader for LLaVA-OneVision reads the first entry; those for Qwen-VL take frames at a rate, within the others.
    """
    frames = max(2, frames)
    return {"video": {"num_frames": frames, "min_frames": frames, "max_frames": frames}}


def has_option(extra: Sequence[str], *names: str) -> bool:
    """Whether one of vLLM's options is given, with dashes or underscores, its value in the same word or the next."""
    return any(_name(word) in names for word in extra)


def _name(word: str) -> str:
    return word.partition("=")[0].replace("_", "-") if word.startswith("--") else word


def _builtin_options(model: str | None, rest: Sequence[str]) -> list[str]:
    """What vLLM would get wrong of the embedded model: its name, and weights in float32 that are meant so."""
    if model is not None:
        return []
    own = [] if has_option(rest, "--dtype") else ["--dtype", "float32"]
    return own if has_option(rest, "--served-model-name") else [*own, "--served-model-name", BUILTIN_NAME]


def _media(frames: int | None, extra: Sequence[str]) -> list[str]:
    if frames is None:
        return []
    if has_option(extra, "--media-io-kwargs"):
        raise InputError("--frames does not go with --media-io-kwargs, which says how many too: leave one of them out")
    return ["--media-io-kwargs", json.dumps(media_io(frames))]


def _take_overrides(extra: Sequence[str]) -> tuple[Mapping[str, Any], list[str]]:
    """The user's own overrides, and the other words."""
    for word in extra:
        if _name(word).startswith(f"{OVERRIDES}."):
            raise InputError(f"{word} cannot be merged with ours: give one {OVERRIDES} with a JSON object")
    found, rest = _take(extra, OVERRIDES)
    if len(found) > 1:
        raise InputError(f"{OVERRIDES} is given twice: give one JSON object")
    return (_object(found[0]) if found else {}), rest


def _take(extra: Sequence[str], option: str) -> tuple[list[str], list[str]]:
    """The values of an option, "" where one is missing, and the other words."""
    found: list[str] = []
    rest: list[str] = []
    words = iter(extra)
    for word in words:
        if _name(word) != option:
            rest.append(word)
        else:
            found.append(word.partition("=")[2] if "=" in word else next(words, ""))
    return found, rest


def _object(text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise InputError(f"{OVERRIDES} is {text!r}: give a JSON object such as '{{\"max_position_embeddings\": 4096}}'")
    return value
