"""`tangovlm bench batch`: a corpus of questions about a few clips, row by row and as `tangovlm batch` answers it.

Both use the engine of `tangovlm batch` on transformers. Row by row, it gets one row at a time, and so decodes and
encodes a clip for each. One repetition runs both, one after the other, from the files of the clips to the last answer.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

import tangovlm
from tangovlm.batch.corpus import Task
from tangovlm.batch.engine import Outcome
from tangovlm.batch.transformers_engine import TransformersEngine
from tangovlm.budget import validate_retention
from tangovlm.errors import InputError
from tangovlm.kernels import variant
from tangovlm.report.provenance import machine
from tangovlm.tiny.clip import decoded_frames, write_clip
from tangovlm.tiny.synthetic.questions import questions
from tangovlm.tiny.synthetic.sampling import sample_clip

from .tables import Column, number, text
from .timing import TimedRow, dtype_name, wall_and_cpu_s

RETENTIONS = (0.1,)
MAX_NEW_TOKENS = 16
KEYS = ("model", "method", "retention", "rows", "clips", "device", "threads")
"""The entries that identify a row: one with the same entries replaces another."""
COLUMNS = (
    Column("method", text("method")),
    Column("retention", text("retention")),
    Column("rows", number("rows", 0)),
    Column("clips", number("clips", 0)),
    Column("row by row s", number("alone_s", 1)),
    Column("batch s", number("batch_s", 1)),
    Column("times faster", number("speedup", 2)),
    Column("CPU row by row s", number("alone_cpu_s", 1)),
    Column("CPU batch s", number("batch_cpu_s", 1)),
    Column("times less CPU", number("cpu_speedup", 2)),
    Column("other answers", number("other_answers", 0)),
    Column("on", text("device")),
)


@dataclass(frozen=True)
class BatchRow(TimedRow):
    """One method at one retention; times are medians, and ratios medians of those of each repetition.

    Parameters
    ----------
    tokens_before: of a clip. tokens_after: visual tokens kept of a clip.
    rows, clips: size of the corpus.
    alone_s, alone_cpu_s: time, and CPU time of all threads, row by row. batch_s, batch_cpu_s: of the corpus at once.
    speedup, cpu_speedup: the first over the second.
    other_answers: rows whose answers differ between the two.
    """

    model: str
    method: str
    tokens_after: int
    rows: int
    clips: int
    alone_s: float
    batch_s: float
    speedup: float
    alone_cpu_s: float
    batch_cpu_s: float
    cpu_speedup: float
    other_answers: int


def run(
    *,
    model: str | None = None,
    method: str = "tango",
    retentions: Sequence[float] = RETENTIONS,
    frames: int | None = None,
    rows: int = 60,
    clips: int = 6,
    repeats: int = 3,
    device: torch.device,
    dtype: torch.dtype | None = None,
    progress: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    """Measure clips of the synthetic world and questions about them, and yield a row per retention.

    Parameters
    ----------
    model: see `tangovlm.load`; None for the embedded model.
    rows: of the corpus; neighbouring ones are about different clips.
    repeats: number of timed repetitions, after one row about each clip as a warm-up.
    progress: called with a line at the start of each retention.

    Raises
    ------
    InputError: more clips than rows, or more rows than there are questions about the clips.
    TangoError: see `tangovlm.load` and `tangovlm.method`.
    """
    for retention in retentions:
        validate_retention(retention)
    if clips > rows:
        raise InputError(f"--clips is {clips}: it can be at most the number of rows, {rows}")
    llm = tangovlm.load(model, device=device, dtype=dtype)
    engine = TransformersEngine(llm, method, frames)
    with tempfile.TemporaryDirectory() as folder:
        pairs = _corpus(Path(folder), rows, clips)
        for retention in retentions:
            progress(f"{method} at {retention:g}: {repeats} times {rows} rows about {clips} clips")
            tasks = [
                Task(row, str(clip), question, retention, MAX_NEW_TOKENS) for row, (clip, question) in enumerate(pairs)
            ]
            measured = _measure(engine, tasks, clips, repeats, device)
            yield asdict(
                BatchRow(
                    retention=retention,
                    dtype=dtype_name(llm.model.dtype),
                    **machine(device),
                    kernel=variant(device),
                    warm_up=1,
                    repeats=repeats,
                    model=llm.name,
                    method=method,
                    rows=rows,
                    clips=clips,
                    **measured,
                )
            )


def _corpus(folder: Path, rows: int, clips: int) -> list[tuple[Path, str]]:
    """The clip and the question of each row."""
    files, asked = [], []
    for seed in range(clips):
        clip = sample_clip(np.random.default_rng(seed))
        _, visible = decoded_frames(clip)
        files.append(folder / f"clip{seed}.mp4")
        write_clip(clip, files[-1])
        asked.append(dict.fromkeys(each.text for each in questions(clip, np.random.default_rng(0), visible)))
    most = clips * min(map(len, asked))
    if rows > most:
        raise InputError(f"--rows is {rows}: {clips} clips have at most {most} questions, give more --clips")
    each = [iter(texts) for texts in asked]
    return [(files[row % clips], next(each[row % clips])) for row in range(rows)]


def _measure(
    engine: TransformersEngine, tasks: Sequence[Task], clips: int, repeats: int, device: torch.device
) -> dict[str, Any]:
    """The measured fields of a row."""

    def at_once() -> list[Outcome]:
        return list(engine.answer(iter(tasks)))

    def row_by_row() -> list[Outcome]:
        return [outcome for task in tasks for outcome in engine.answer(iter([task]))]

    list(engine.answer(iter(tasks[:clips])))
    times: list[tuple[float, ...]] = []
    for _ in range(repeats):
        alone, alone_s, alone_cpu_s = wall_and_cpu_s(row_by_row, device)
        together, batch_s, batch_cpu_s = wall_and_cpu_s(at_once, device)
        times.append((alone_s, batch_s, alone_s / batch_s, alone_cpu_s, batch_cpu_s, alone_cpu_s / batch_cpu_s))
    names = ("alone_s", "batch_s", "speedup", "alone_cpu_s", "batch_cpu_s", "cpu_speedup")
    answers = {outcome.task.id: _answer(outcome) for outcome in together}
    return {
        **{name: median(values) for name, values in zip(names, zip(*times, strict=True), strict=True)},
        "tokens_before": alone[0].fields["tokens_before"],
        "tokens_after": alone[0].fields["tokens_after"],
        "other_answers": sum(_answer(outcome) != answers[outcome.task.id] for outcome in alone),
    }


def _answer(outcome: Outcome) -> str:
    """The answer to a row; raises for a row that failed."""
    if "answer" not in outcome.fields:
        raise InputError(f"row {outcome.task.id} has no answer: {outcome.fields.get('error')}")
    return str(outcome.fields["answer"])
