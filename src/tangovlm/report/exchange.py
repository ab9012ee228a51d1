"""A question and its answers, and the figures of an answer in words: shared by the terminal and the HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tangovlm.pipeline.ask import Answer

STAGES = {
    "decode": "decode video",
    "encode": "vision encoder",
    "prune": "prune tokens",
    "prefill": "prefill",
    "decode_tokens": "generate",
}


@dataclass(frozen=True)
class Exchange:
    """One question about a video.

    Parameters
    ----------
    question: as the user put it.
    answer: with the chosen method.
    unpruned: with all visual tokens, when asked for.
    truth: the right answer, where it is known.
    """

    question: str
    answer: Answer
    unpruned: Answer | None = None
    truth: str | None = None

    @property
    def answers(self) -> tuple[Answer, ...]:
        """The unpruned answer first, if there is one."""
        return (self.answer,) if self.unpruned is None else (self.unpruned, self.answer)


def heading(answer: Answer) -> str:
    """What sets this answer apart: `all tokens` or `tango, 10 %`."""
    return "all tokens" if answer.retention >= 1.0 else f"{answer.method}, {percent(answer.retention)}"


def token_words(answer: Answer) -> str:
    """How many visual tokens the language model got; where a model has many newlines, these too, and what both are."""
    words = f"{answer.tokens_after} of {answer.tokens_before} visual tokens"
    if answer.newlines_before <= 1:
        return words
    got, whole = answer.tokens_after + answer.newlines_after, answer.tokens_before + answer.newlines_before
    return f"{words} and {answer.newlines_after} of {answer.newlines_before} newlines ({percent(got / whole)} of both)"


def layer_words(answer: Answer) -> str:
    """Visual tokens in each layer of the language model where a method pruned inside it, else nothing."""
    layers = answer.tokens_per_layer
    if not layers:
        return ""
    mean = sum(layers) / len(layers) / answer.tokens_before
    return f"{', '.join(map(str, layers))} (mean {percent(mean)})"


def percent(fraction: float) -> str:
    """`0.1` as `10 %`, `0.125` as `12.5 %`: three digits."""
    return f"{100 * fraction:.3g} %"


def stage_ms(answers: Sequence[Answer]) -> dict[str, float]:
    """Mean milliseconds of each stage over answers, in the order of the way; stages that nobody timed are left out."""
    timed = [stage for stage in STAGES if any(stage in answer.timings_ms for answer in answers)]
    return {stage: sum(answer.timings_ms.get(stage, 0.0) for answer in answers) / len(answers) for stage in timed}


def is_right(answer: str, truth: str) -> bool:
    """Equal but for case, spacing and a full stop."""
    return _bare(answer) == _bare(truth)


def _bare(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")
