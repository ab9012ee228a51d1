"""A question with its answers, and counts and times as text, for the terminal and the HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tangovlm.pipeline.answer import Answer

STAGES = {
    "decode": "decode video",
    "encode": "vision encoder",
    "prune": "prune tokens",
    "prefill": "prefill",
    "decode_tokens": "generate",
}


RETENTIONS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.5)
"""Retentions at which the HTML page shows the kept tokens, beside that of the answer."""


@dataclass(frozen=True)
class Exchange:
    """One question about a video.

    Parameters
    ----------
    question: as the user wrote it.
    answer: of the pruned model.
    unpruned: the answer with all visual tokens, or None.
    truth: the true answer, or None if unknown.
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
    """Method and retention of an answer: `all tokens`, `tango, 10 %` or `milonga, at most 10 %`."""
    if answer.tokens_cap is not None:
        return f"{answer.method}, at most {percent(answer.retention)}"
    return "all tokens" if answer.retention >= 1.0 else f"{answer.method}, {percent(answer.retention)}"


def token_words(answer: Answer) -> str:
    """Number of visual tokens that the language model received and, for a model with many newlines, of newlines."""
    most = "" if answer.tokens_cap is None else f" (at most {answer.tokens_cap})"
    words = f"{answer.tokens_after} of {answer.tokens_before} visual tokens{most}"
    if answer.newlines_before <= 1:
        return words
    got, whole = answer.tokens_after + answer.newlines_after, answer.tokens_before + answer.newlines_before
    return f"{words} and {answer.newlines_after} of {answer.newlines_before} newlines ({percent(got / whole)} of both)"


def layer_words(answer: Answer) -> str:
    """Visual tokens in each layer of the language model; empty if no method pruned inside it."""
    layers = answer.tokens_per_layer
    if not layers:
        return ""
    mean = sum(layers) / len(layers) / answer.tokens_before
    words = f"{', '.join(map(str, layers))} (mean {percent(mean)})"
    if answer.first_pass_groups:
        words += f", after a first pass of {sum(answer.first_pass_groups)} through {answer.first_pass_layers} layers"
    return words


def percent(fraction: float) -> str:
    """A percentage with three digits: `0.1` as `10 %`, `0.125` as `12.5 %`."""
    return f"{100 * fraction:.3g} %"


def stage_ms(answers: Sequence[Answer]) -> dict[str, float]:
    """Mean milliseconds of each stage over answers, in the order of the stages; only stages that were timed."""
    timed = [stage for stage in STAGES if any(stage in answer.timings_ms for answer in answers)]
    return {stage: sum(answer.timings_ms.get(stage, 0.0) for answer in answers) / len(answers) for stage in timed}


def is_right(answer: str, truth: str) -> bool:
    """Compare an answer with the truth, ignoring case, spacing and a final full stop."""
    return _bare(answer) == _bare(truth)


def _bare(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")
