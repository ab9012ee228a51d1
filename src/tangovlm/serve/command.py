"""The command line of `vllm serve` for a model that prunes videos."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import InputError
from ..pipeline.load import BUILTIN_NAME, embedded_folder
from ..video import FrameSampling
from .options import CONFIG_KEY, ServeOptions
from .videos import media_io

OVERRIDES = "--hf-overrides"
_SEVERAL_VALUES = frozenset({"--served-model-name", "--lora-modules", "--api-key", "--allowed-media-domains"})
"""Options of `vllm serve` for any model that take several values."""


def serve_arguments(
    model: str | None,
    options: ServeOptions | None,
    extra: Sequence[str] = (),
    *,
    frames: int | None = None,
    fps: float | None = None,
    max_frames: int | None = None,
) -> list[str]:
    """The words of ``vllm serve MODEL --hf-overrides '{"tango": {...}}' ...``.

    Parameters
    ----------
    model: directory, hub id or name of an embedded model; None for the default one.
    options: how videos are pruned; None for the options in `extra`, or else for the defaults.
    extra: options of vLLM, forwarded unchanged; an ``--hf-overrides`` among them is merged with `options`.
    frames, fps, max_frames: which frames to sample from a video, see `tangovlm.video.FrameSampling`; None for the
        default of vLLM.

    Raises
    ------
    InputError: an ``--hf-overrides`` that is not a JSON object, is given twice, or has a key ``tango`` in addition to
        `options`; frames or a rate together with ``--media-io-kwargs``.
    VideoError: see `tangovlm.video.FrameSampling`.
    """
    return [
        "vllm",
        "serve",
        str(embedded_folder(model) or model),
        *engine_options(model, options, extra),
        *_media(FrameSampling(frames, fps, max_frames), extra),
    ]


def engine_options(model: str | None, options: ServeOptions | None, extra: Sequence[str]) -> list[str]:
    """Options with which any command of vLLM loads a model that prunes; see `serve_arguments`."""
    overrides, rest = _take_overrides(extra)
    if options is not None and CONFIG_KEY in overrides:
        raise InputError(
            f"{OVERRIDES} has a key {CONFIG_KEY!r} in addition to options that set the same: leave one of them out"
        )
    if CONFIG_KEY in overrides:
        ServeOptions.from_mapping(overrides[CONFIG_KEY])
    else:
        overrides = {**overrides, CONFIG_KEY: (options or ServeOptions()).as_mapping()}
    return [OVERRIDES, json.dumps(overrides, ensure_ascii=False), *_builtin_options(model, rest), *rest]


def split_model(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Split a command line into the model, None if it has none, and the options of vLLM.

    The model is the first word, as in `vllm serve`, or the value of ``--model``.

    Raises
    ------
    InputError: an empty name, two models, or a model after options.
    """
    first = [words[0]] if words and not words[0].startswith("-") else []
    named, rest = _take(words[len(first) :], "--model")
    models = first + named
    if len(models) > 1:
        raise InputError(f"MODEL is given twice, as {' and '.join(models)}: leave one of them out")
    if models and not models[0].strip():
        raise InputError("MODEL is empty: give a folder or a hub id, or leave it out for the embedded model")
    if not models and (stray := _stray(rest)) is not None:
        raise InputError(
            f"{stray} is not the value of an option: if it is the model, MODEL comes first, before all options"
        )
    return (models[0] if models else None), rest


def _stray(words: Sequence[str]) -> str | None:
    """The first word that follows the value of an option with one value; None if there is none."""
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


def has_option(extra: Sequence[str], *names: str) -> bool:
    """Whether one of these options of vLLM is present, spelled with dashes or underscores, as one word or two."""
    return any(_name(word) in names for word in extra)


def _name(word: str) -> str:
    return word.partition("=")[0].replace("_", "-") if word.startswith("--") else word


def _builtin_options(model: str | None, rest: Sequence[str]) -> list[str]:
    """Options for an embedded model: its name in place of its path, and float32, in which its weights should run."""
    if embedded_folder(model) is None:
        return []
    own = [] if has_option(rest, "--dtype") else ["--dtype", "float32"]
    return own if has_option(rest, "--served-model-name") else [*own, "--served-model-name", model or BUILTIN_NAME]


def _media(sampling: FrameSampling, extra: Sequence[str]) -> list[str]:
    options = media_io(sampling)
    if not options:
        return []
    if has_option(extra, "--media-io-kwargs"):
        given = "--frames" if sampling.fps is None else "--fps"
        raise InputError(f"{given} and --media-io-kwargs both set the number of frames: leave one of them out")
    return ["--media-io-kwargs", json.dumps(options)]


def _take_overrides(extra: Sequence[str]) -> tuple[Mapping[str, Any], list[str]]:
    """The overrides by the user, and the other words."""
    for word in extra:
        if _name(word).startswith(f"{OVERRIDES}."):
            raise InputError(f"{word} cannot be merged: give one {OVERRIDES} with a JSON object")
    values, rest = _take(extra, OVERRIDES)
    if len(values) > 1:
        raise InputError(f"{OVERRIDES} is given twice: give one JSON object")
    return (_object(values[0]) if values else {}), rest


def _take(extra: Sequence[str], option: str) -> tuple[list[str], list[str]]:
    """The values of an option, "" for a missing one, and the other words."""
    values: list[str] = []
    rest: list[str] = []
    words = iter(extra)
    for word in words:
        if _name(word) != option:
            rest.append(word)
        else:
            values.append(word.partition("=")[2] if "=" in word else next(words, ""))
    return values, rest


def _object(text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise InputError(f"{OVERRIDES} is {text!r}: give a JSON object such as '{{\"max_position_embeddings\": 4096}}'")
    return value
