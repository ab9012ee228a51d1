"""`tangovlm bench questions`: several questions about one clip, asked alone and from one encoding.

Every repetition runs all ways of asking, one after another, from the file of the clip to the last answer; the first is
a warm-up.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

import tangovlm
from tangovlm.budget import validate_retention
from tangovlm.kernels import variant
from tangovlm.pipeline.load import VideoLLM
from tangovlm.report.provenance import machine
from tangovlm.tiny.clip import write_demo

from .tables import Column, number, text
from .timing import TimedRow, dtype_name, timed

RETENTIONS = (1.0, 0.1)
MAX_NEW_TOKENS = 16
KEYS = ("model", "method", "retention", "device", "threads")
"""The entries that identify a row: one with the same entries replaces another."""
COLUMNS = (
    Column("method", text("method")),
    Column("retention", text("retention")),
    Column("questions", number("questions", 0)),
    Column("one ms", number("one_ms", 0)),
    Column("each alone ms", number("alone_ms", 0)),
    Column("encoded once ms", number("in_turn_ms", 0)),
    Column("and in batches ms", number("together_ms", 0)),
    Column("batches / one", number("ratio", 2)),
    Column("times faster", number("speedup", 2)),
    Column("other answers", number("other_answers", 0)),
    Column("on", text("device")),
)


@dataclass(frozen=True)
class QuestionsRow(TimedRow):
    """One method at one retention; times are medians in milliseconds, decoding included.

    Parameters
    ----------
    tokens_after: visual tokens kept.
    questions: about the clip.
    one_ms: `tangovlm.ask` with one question. alone_ms: with each of them, one call after another.
    in_turn_ms: `VideoLLM.encode` and `EncodedClip.ask` for each. together_ms: `EncodedClip.ask_all` instead.
    ratio: together_ms over one_ms. speedup: alone_ms over together_ms.
    other_answers: of `ask_all`, those that differ from the answer to the question alone.
    """

    model: str
    method: str
    tokens_after: int
    questions: int
    one_ms: float
    alone_ms: float
    in_turn_ms: float
    together_ms: float
    ratio: float
    speedup: float
    other_answers: int


def run(
    *,
    model: str | None = None,
    method: str = "tango",
    retentions: Sequence[float] = RETENTIONS,
    frames: int | None = None,
    repeats: int = 5,
    device: torch.device,
    dtype: torch.dtype | None = None,
    progress: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    """Measure the clip of `tangovlm demo` and its questions, and yield a row per retention.

    Parameters
    ----------
    model: see `tangovlm.load`; None for the embedded model.
    repeats: number of timed repetitions, after the warm-up.
    progress: called with a line at the start of each retention.

    Raises
    ------
    TangoError: see `tangovlm.load` and `tangovlm.method`.
    """
    for retention in retentions:
        validate_retention(retention)
    llm = tangovlm.load(model, device=device, dtype=dtype)
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        questions = [question for question, _ in write_demo(clip)]
        for retention in retentions:
            progress(f"{method} at {retention:g}: {repeats + 1} times {len(questions)} questions")
            yield asdict(_row(llm, clip, questions, method, retention, frames, repeats, device))


def _row(
    llm: VideoLLM,
    clip: Path,
    questions: Sequence[str],
    method: str,
    retention: float,
    frames: int | None,
    repeats: int,
    device: torch.device,
) -> QuestionsRow:
    pruner = tangovlm.method(method, retention=retention)

    def alone(asked: Sequence[str]) -> list[Any]:
        options: dict[str, Any] = {"model": llm, "method": pruner, "frames": frames, "max_new_tokens": MAX_NEW_TOKENS}
        return [tangovlm.ask(clip, question, **options) for question in asked]

    def in_turn() -> list[Any]:
        encoded = llm.encode(clip, method=pruner, frames=frames)
        return [encoded.ask(question, max_new_tokens=MAX_NEW_TOKENS) for question in questions]

    def together() -> list[Any]:
        return list(llm.encode(clip, method=pruner, frames=frames).ask_all(questions, max_new_tokens=MAX_NEW_TOKENS))

    ways: tuple[Callable[[], list[Any]], ...] = (
        lambda: alone(questions[:1]),
        lambda: alone(questions),
        in_turn,
        together,
    )
    runs = [[timed(way, device=device, repeats=1) for way in ways] for _ in range(repeats + 1)][1:]
    one_ms, alone_ms, in_turn_ms, together_ms = (
        median(timing.median_ms for timing in each) for each in zip(*runs, strict=True)
    )
    answers, batched = runs[-1][1].result, runs[-1][3].result
    return QuestionsRow(
        retention=retention,
        dtype=dtype_name(llm.model.dtype),
        **machine(device),
        kernel=variant(device),
        tokens_before=answers[0].tokens_before,
        warm_up=1,
        repeats=repeats,
        model=llm.name,
        method=method,
        tokens_after=answers[0].tokens_after,
        questions=len(questions),
        one_ms=one_ms,
        alone_ms=alone_ms,
        in_turn_ms=in_turn_ms,
        together_ms=together_ms,
        ratio=together_ms / one_ms,
        speedup=alone_ms / together_ms,
        other_answers=sum(str(a) != str(b) for a, b in zip(answers, batched, strict=True)),
    )
