"""Requests of a harness, and their completions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from tangovlm.errors import InputError
from tangovlm.inputs.prompting import check_question
from tangovlm.methods.common.checks import is_integer
from tangovlm.models.common.transformers_compat import Arg
from tangovlm.video import Frames

Media: TypeAlias = str | Path | Frames

# Other generation arguments that harnesses pass, with the values that do not change a single greedy answer.
_WITHOUT_EFFECT: Mapping[str, tuple[Any, ...]] = {
    "num_return_sequences": (1,),
    "repetition_penalty": (1, None),
    "length_penalty": (1, None),
    Arg.USE_CACHE: (True,),
    "n": (1,),
    "best_of": (1,),
}


@dataclass(frozen=True)
class GenerationOptions:
    """How an answer is generated.

    Parameters
    ----------
    max_new_tokens: maximum length of the answer in tokens.
    until: stop strings; the answer ends before the first one that is generated.
    temperature: 0 for greedy decoding, a positive value for sampling with `top_p` and `top_k`.
    num_beams: number of beams.

    Raises
    ------
    InputError: a value out of its range.
    """

    max_new_tokens: int = 64
    until: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    num_beams: int = 1

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "num_beams"):
            if not is_integer(getattr(self, name)) or getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)!r}: it must be a whole number, at least 1")
        if not all(isinstance(text, str) and text for text in self.until):
            raise InputError(f"until is {self.until!r}: give strings that are not empty")
        if isinstance(self.temperature, bool) or not isinstance(self.temperature, (int, float)) or self.temperature < 0:
            raise InputError(f"temperature is {self.temperature!r}: give 0 for greedy decoding, or more for sampling")

    @classmethod
    def read(cls, arguments: Mapping[str, Any]) -> "GenerationOptions":
        """Read the generation arguments of a task.

        Raises
        ------
        InputError: see `GenerationOptions`; an unknown argument, which is never ignored.
        """
        rest = dict(arguments)
        until = rest.pop("until", None) or ()
        limits = [rest.pop(name, None) for name in ("max_new_tokens", "max_gen_toks")]
        do_sample, temperature = rest.pop("do_sample", None), rest.pop("temperature", None)
        top_p, top_k, beams = (rest.pop(name, None) for name in ("top_p", "top_k", "num_beams"))
        for name, value in rest.items():
            if name not in _WITHOUT_EFFECT or value not in _WITHOUT_EFFECT[name]:
                raise InputError(f"the generation argument {name}={value!r} is not supported: leave it out of the task")
        if do_sample and temperature is None:
            temperature = 1.0
        if do_sample is False or temperature is None:
            temperature = 0.0
        return cls(
            max_new_tokens=next((limit for limit in limits if limit is not None), cls.max_new_tokens),
            until=(until,) if isinstance(until, str) else tuple(until),
            temperature=temperature,
            top_p=top_p if temperature else None,
            top_k=top_k if temperature else None,
            num_beams=1 if beams is None else beams,
        )

    @property
    def generate_kwargs(self) -> dict[str, Any]:
        """Arguments of `generate`."""
        sampling: dict[str, Any] = {"temperature": None, "top_p": None, "top_k": None}
        if self.temperature:
            sampling = {"temperature": float(self.temperature), "top_p": self.top_p, "top_k": self.top_k}
        return sampling | {
            "do_sample": self.temperature > 0,
            "num_beams": self.num_beams,
            "max_new_tokens": self.max_new_tokens,
        }

    def cut(self, text: str) -> str:
        """The text before the first stop string, without surrounding spaces."""
        ends = [end for end in map(text.find, self.until) if end >= 0]
        return text[: min(ends, default=None)].strip()


@dataclass(frozen=True, eq=False)
class Request:
    """One question.

    Parameters
    ----------
    text: the text of the user's turn, which follows its videos.
    media: the videos, as paths or decoded frames.
    conversation: instead of `text` and `media`, turns as for `tangovlm.Processor`: a role, and a content of parts
        ``{"type": "video", "video": path or Frames}`` and ``{"type": "text", "text": ...}``.
    options: of the generation.

    Raises
    ------
    InputError: no text, media other than videos, or both forms at once.
    """

    text: str | None = None
    media: Sequence[Media] = ()
    conversation: Sequence[Mapping[str, Any]] | None = None
    options: GenerationOptions = field(default_factory=GenerationOptions)

    def __post_init__(self) -> None:
        if (self.text is None) == (self.conversation is None):
            raise InputError("a request has either a text or a conversation")
        if self.text is not None:
            check_question(self.text)
        elif self.media:
            raise InputError("the videos of a conversation are parts of it: leave out media")
        for video in self.videos:
            if not isinstance(video, (str, Path, Frames)):
                raise InputError(
                    f"a request contains {type(video).__name__} where a video is expected: give a path or decoded "
                    "Frames; images are not supported"
                )

    @property
    def turns(self) -> Sequence[Mapping[str, Any]]:
        """The conversation."""
        if self.conversation is not None:
            return self.conversation
        parts: list[dict[str, Any]] = [{"type": "video", "video": video} for video in self.media]
        return [{"role": "user", "content": [*parts, {"type": "text", "text": self.text}]}]

    @property
    def videos(self) -> tuple[Media, ...]:
        """All videos, in the order of the prompt."""
        if self.conversation is None:
            return tuple(self.media)
        contents = [turn.get("content") for turn in self.conversation if isinstance(turn, Mapping)]
        parts = [part for content in contents if isinstance(content, (list, tuple)) for part in content]
        videos: list[Any] = [part.get("video") for part in parts if _is_video(part)]
        return tuple(videos)


def _is_video(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "video"


STAGES = ("decode", "encode", "prune", "prefill", "decode_tokens")
"""Decoding of the video file, vision encoder, pruning, prefill of the prompt, and generation after the first token."""


@dataclass(frozen=True)
class Completion:
    """The answer to a request, with token counts, times and memory.

    Parameters
    ----------
    text: the answer.
    tokens_before, tokens_after: visual tokens of all videos before and after pruning, without newlines.
    prompt_tokens: length of the prompt before pruning.
    output_tokens: length of the generated answer.
    times_ms: by stage, see `STAGES`; each question of a batch has an equal share of the batch's times.
    frames: frames of all videos.
    shared: whether the videos were encoded for an earlier question; the times of the first three stages are then 0.
    batch: number of questions in the call.
    peak_bytes: see `PeakMemory`.
    tokens_per_layer: see `tangovlm.tokens.VideoReport`; summed over videos.
    notes: fallbacks and other notes for the user.
    newlines_before, newlines_after: see `tangovlm.tokens.VideoReport`; summed over videos.
    """

    text: str
    tokens_before: int = 0
    tokens_after: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    times_ms: Mapping[str, float] = field(default_factory=dict)
    frames: int = 0
    shared: bool = False
    batch: int = 1
    peak_bytes: int = 0
    tokens_per_layer: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    newlines_before: int = 0
    newlines_after: int = 0

    @property
    def read_tokens(self) -> int | None:
        """Length of the prompt after pruning; None if unknown."""
        if not self.prompt_tokens:
            return None
        dropped = self.tokens_before - self.tokens_after + self.newlines_before - self.newlines_after
        return self.prompt_tokens - dropped


OnCompletion = Callable[[int, Completion], None]
"""Called with the index of a request and its completion, as soon as the completion is available."""
