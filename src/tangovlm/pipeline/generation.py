"""What every call of the stock `generate` needs: the decoded video as arguments, greedy search, checks and progress."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from ..errors import InputError
from ..inputs.pixels import check_frames
from ..models.common.family import Family
from ..video import Frames, FrameSampling, decode
from ..video.input import VideoSource
from .frame_source import Progress
from .loaded import LoadedModel
from .settings import end_tokens
from .streamer import TextSoFar, TokenStreamer

# With a checkpoint's sampling parameters, greedy search issues warnings.
GREEDY: dict[str, Any] = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}


def generate(
    llm: LoadedModel,
    inputs: Mapping[str, Any],
    max_new_tokens: int,
    streamer: BaseStreamer | None = None,
    **options: Any,
) -> Any:
    """The stock `generate`, by greedy search.

    Parameters
    ----------
    inputs: see `prompt_inputs`.
    options: further arguments.

    Returns
    -------
    Token ids ``(B, Q + N)`` int64, unless the options ask for more.

    Raises
    ------
    InputError: NaN in the output of the model.
    """
    if llm.model.generation_config.stop_strings:
        options["tokenizer"] = llm.tokenizer
    return llm.model.generate(
        **inputs,
        max_new_tokens=max_new_tokens,
        streamer=streamer,
        logits_processor=[refuse_nan],
        **{"return_dict_in_generate": False, **GREEDY, **options},
    )


def answer_text(llm: LoadedModel, ids: Sequence[int]) -> str:
    """The text of an answer; behind its end, a batch has padding."""
    ends = end_tokens(llm.model.generation_config)
    stop = next((place + 1 for place, token in enumerate(ids) if token in ends), None)
    text: str = llm.tokenizer.decode(ids[:stop], skip_special_tokens=True)
    return text.strip()


@contextmanager
def kept_rope_deltas(family: Family) -> Iterator[None]:
    """Restore what a stock model with M-RoPE stores for the next call of a conversation of its user."""
    encoder: Any = family.encoder
    if not hasattr(encoder, "rope_deltas"):
        yield
        return
    before = encoder.rope_deltas
    try:
        yield
    finally:
        encoder.rope_deltas = before


def no_progress(_stage: str, _done: int, _total: int) -> None:
    """For callers that want none."""


def refuse_nan(_ids: Tensor, scores: Tensor) -> Tensor:
    """A logits processor that raises `InputError` for NaN, of which greedy search would choose a token."""
    if bool(scores.isnan().any()):
        raise InputError("the model's output has NaN values: check its weights and its dtype")
    return scores


def streamer_of(
    llm: LoadedModel, report: Progress, max_new_tokens: int, encodes_first: bool, on_text: TextSoFar | None
) -> TokenStreamer:
    """A streamer for one prompt, see `TokenStreamer`."""
    text_of = None if on_text is None else partial(answer_text, llm)
    return TokenStreamer(report, max_new_tokens, encodes_first, on_text, text_of)


def decode_for(llm: LoadedModel, path: VideoSource, frames: FrameSampling, report: Progress) -> Frames:
    """Decode a file in the frame size of a model."""
    fit = partial(llm.family.prompt.frame_size, llm.config)
    return decode(path, frames, fit=fit, progress=lambda done, total: report("decode", done, total))


def model_inputs(llm: LoadedModel, clip: Frames, question: str) -> dict[str, Tensor]:
    """Arguments of the model's `generate` for one question about one clip, on the model's device."""
    pixels = llm.family.prompt.pixels(clip.pixels.to(llm.family.device), llm.config)
    return prompt_inputs(llm, pixels, question, clip.prompt_times_s, clip.prompt_duration_s)


def prompt_inputs(
    llm: LoadedModel,
    pixels: Tensor,
    question: str,
    seconds: Tensor,
    duration_s: float | None,
    history: Sequence[tuple[str, str]] = (),
) -> dict[str, Tensor]:
    """Arguments of `generate` for a question, on the model's device; see `PromptFormat.inputs`."""
    inputs = llm.family.prompt.inputs(llm.tokenizer, llm.template, pixels, question, seconds, duration_s, history)
    return {name: tensor.to(llm.family.device) for name, tensor in inputs.items()}


def check_max_new_tokens(count: object) -> None:
    """Raise `InputError` unless it is a whole number of at least 1."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InputError(f"max_new_tokens is {count!r}: give a whole number of at least 1")


def check_source(video: object, sampling: FrameSampling) -> None:
    """Raise `InputError` unless it is a path, a list of paths, or valid frames, which leave nothing to choose."""
    if isinstance(video, Frames):
        check_frames(video.pixels)
        if given := [name for name in sampling.as_dict() if name != "frames"]:
            raise InputError(f"{given[0]} is given, but the frames are decoded already: give it to decode")
    elif not isinstance(video, (str, Path, list, tuple)):
        raise InputError(
            f"the video is {type(video).__name__}: give a path, a list of pictures, a binary file object, or Frames "
            "from tangovlm.video.decode"
        )
