"""What a harness asks, and what it is answered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from tangovlm.errors import InputError
from tangovlm.inputs.prompting import check_question
from tangovlm.methods.common.checks import is_integer
from tangovlm.models.common.transformers_compat import Arg
from tangovlm.video import Frames

Media: TypeAlias = str | Path | Frames

# What harnesses hand on beside what is known here, and what it must be for greedy search of one answer.
_WITHOUT_EFFECT: Mapping[str, tuple[Any, ...]] = {
    "num_return_sequences": (1,),
    "repetition_penalty": (1, None),
    "length_penalty": (1, None),
    Arg.USE_CACHE: (True,),
    "n": (1,),
    "best_of": (1,),
}


@dataclass(frozen=True)
class Limits:
    """How an answer is generated.

    Parameters
    ----------
    max_new_tokens: the longest answer.
    until: texts at the first of which the answer ends; the text itself is left out.
    temperature: 0 for greedy search, above it for sampling, as `top_p` and `top_k` say.
    num_beams: beams of the search.

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
            raise InputError(f"until is {self.until!r}: give texts that are not empty")
        if isinstance(self.temperature, bool) or not isinstance(self.temperature, (int, float)) or self.temperature < 0:
            raise InputError(f"temperature is {self.temperature!r}: give 0 for greedy search, or more for sampling")

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> "Limits":
        """From the generation arguments of a task.

        Raises
        ------
        InputError: see `Limits`; an argument that is not known, which is never just ignored.
        """
        options = dict(given)
        until = options.pop("until", None) or ()
        texts = (until,) if isinstance(until, str) else tuple(until)
        most = [options.pop(name, None) for name in ("max_new_tokens", "max_gen_toks")]
        sampled, temperature = options.pop("do_sample", None), options.pop("temperature", None)
        top_p, top_k, beams = (options.pop(name, None) for name in ("top_p", "top_k", "num_beams"))
        for name, value in options.items():
            if name not in _WITHOUT_EFFECT or value not in _WITHOUT_EFFECT[name]:
                raise InputError(f"the generation argument {name}={value!r} is not supported: leave it out of the task")
        if sampled and temperature is None:
            temperature = 1.0
        if sampled is False or temperature is None:
            temperature = 0.0
        return cls(
            max_new_tokens=next((number for number in most if number is not None), cls.max_new_tokens),
            until=texts,
            temperature=temperature,
            top_p=top_p if temperature else None,
            top_k=top_k if temperature else None,
            num_beams=1 if beams is None else beams,
        )

    @property
    def options(self) -> dict[str, Any]:
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
        """What of a text counts: up to the first of `until`, without spaces around it."""
        ends = [place for place in map(text.find, self.until) if place >= 0]
        return text[: min(ends, default=None)].strip()


@dataclass(frozen=True, eq=False)
class Request:
    """One question.

    Parameters
    ----------
    text: of the user's turn, behind its videos.
    media: the videos, by path or decoded.
    conversation: in place of `text` and `media`, turns as `tangovlm.Processor` takes them: a role, and a content of
        parts ``{"type": "video", "video": path or Frames}`` and ``{"type": "text", "text": ...}``.
    limits: of the answer.

    Raises
    ------
    InputError: no text, something else than videos, or both forms at once.
    """

    text: str | None = None
    media: Sequence[Media] = ()
    conversation: Sequence[Mapping[str, Any]] | None = None
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if (self.text is None) == (self.conversation is None):
            raise InputError("a request has either a text or a conversation")
        if self.text is not None:
            check_question(self.text)
        elif self.media:
            raise InputError("the videos of a conversation stand in its parts, not beside it")
        for video in self.videos:
            if not isinstance(video, (str, Path, Frames)):
                raise InputError(
                    f"a request holds {type(video).__name__} where a video is expected: give a path or decoded Frames; "
                    "images are not supported"
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


@dataclass(frozen=True)
class Answered:
    """An answer, with how it came about.

    Parameters
    ----------
    text: the answer.
    tokens_before, tokens_after: visual tokens of the question's videos, without newlines.
    newlines_before, newlines_after: see `tangovlm.tokens.VideoReport`; summed over videos.
    prompt_tokens: length of the prompt before anything was pruned.
    output_tokens: of the answer, as generated.
    times_ms: by stage ("decode" of the video file, "encode", "prune", "prefill", "decode_tokens"). The questions of a
        batch share its times evenly.
    frames: of all videos.
    shared: whether videos had been encoded for an earlier question; the first three times are 0 then.
    batch: questions in the call.
    peak_bytes: on CUDA the peak of allocated memory during the call, over all devices; else the peak resident size of
        the process so far.
    tokens_per_layer: see `tangovlm.tokens.VideoReport`; summed over videos.
    notes: fallbacks and what else one should know.
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
        """Length of the prompt that the language model read; None where it is not known."""
        if not self.prompt_tokens:
            return None
        dropped = self.tokens_before - self.tokens_after + self.newlines_before - self.newlines_after
        return self.prompt_tokens - dropped
