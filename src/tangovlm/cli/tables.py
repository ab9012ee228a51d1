"""Token counts and times of answers, as table rows and as one line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from tangovlm.report import STAGES, heading, layer_words, stage_ms, token_words

if TYPE_CHECKING:
    from tangovlm.pipeline.answer import Answer
    from tangovlm.streaming.answer import StreamAnswer


def figures_rows(columns: Iterable[Sequence[Answer]]) -> Iterator[tuple[str, ...]]:
    """Yield table rows: token counts, then mean milliseconds per stage and their sum.

    Each sequence of answers is one column.
    """
    groups = [list(column) for column in columns]
    times = [stage_ms(group) for group in groups]
    yield ("visual tokens", *(f"{group[0].tokens_after} of {group[0].tokens_before}" for group in groups))
    if any(group[0].tokens_cap is not None for group in groups):
        yield ("at most", *("" if group[0].tokens_cap is None else str(group[0].tokens_cap) for group in groups))
    if any(group[0].newlines_before > 1 for group in groups):
        yield ("newlines", *(f"{group[0].newlines_after} of {group[0].newlines_before}" for group in groups))
    if any(group[0].encoded_frames is not None for group in groups):
        yield (
            "frames encoded",
            *("all" if (some := group[0].encoded_frames) is None else str(some) for group in groups),
        )
    if any(layer_words(group[0]) for group in groups):
        yield ("in each layer", *(layer_words(group[0]) for group in groups))
    for stage, words in STAGES.items():
        if any(stage in column for column in times):
            yield (f"{words} (ms)", *(f"{column.get(stage, 0.0):.1f}" for column in times))
    yield ("sum (ms)", *(f"{sum(column.values()):.1f}" for column in times))


def figures_line(answer: Answer) -> str:
    """Token counts and times of one answer, as one line."""
    times = ", ".join(f"{STAGES[stage]} {ms:.0f} ms" for stage, ms in stage_ms([answer]).items())
    layers = layer_words(answer)
    inside = f", in the layers {layers}" if layers else ""
    return f"{heading(answer)}: {token_words(answer)}{inside}; {times}"


def stream_line(answer: StreamAnswer) -> str:
    """Token counts and times of an answer about a stream, as one line."""
    kept = f"{answer.tokens_after} of {answer.tokens_before} visual tokens of {answer.frames} frames"
    apart = "1 segment" if answer.segments == 1 else f"{answer.segments} segments"
    encoded = "" if answer.encoded_frames == answer.frames else f", {answer.encoded_frames} frames encoded"
    reused = f", {answer.reused_tokens} tokens read before" if answer.reused_tokens else ""
    times = ", ".join(f"{STAGES[stage]} {ms:.0f} ms" for stage, ms in answer.timings_ms.items())
    return f"{answer.method}: {kept}, in {apart}{encoded}{reused}; {times}"
