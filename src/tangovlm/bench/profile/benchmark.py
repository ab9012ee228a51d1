"""Measure the time per stage of a question, pruned and unpruned: the table of the authors' README on other clips.

The unpruned model is measured in the same run. Every pass answers one question about each clip, from the file to the
last token; the first pass of each method is a warm-up. The device is synchronized at the start and the end of each
stage (`machine.stopwatch`), so that their sum is slightly longer than a call without timing.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tangovlm.errors import InputError
from tangovlm.evaluate.harness.answerer import Answerer, load_model
from tangovlm.evaluate.harness.requests import Completion, GenerationOptions, Request
from tangovlm.evaluate.harness.settings import Settings
from tangovlm.evaluate.reproduce.times import means
from tangovlm.kernels import variant
from tangovlm.machine.stopwatch import Stopwatch
from tangovlm.models.common.family import Family
from tangovlm.report.provenance import machine

from ..tables import Column, number, text
from ..timing import TimedRow

RETENTIONS = (1.0, 0.2, 0.15, 0.1)
QUESTION = "Describe the video in detail."
KEYS = ("model", "method", "retention", "frames", "source", "device")
"""The entries that identify a row: one with the same entries replaces another."""
COLUMNS = (
    Column("method", text("method")),
    Column("retention", text("retention")),
    Column("tokens", number("tokens_after", 0)),
    Column("total s", number("total_runtime_s", 2)),
    Column("GPU s", number("gpu_runtime_s", 2)),
    Column("peak GB", number("peak_memory_gb", 2)),
    Column("ViT ms", number("vit_ms")),
    Column("other ms", number("other_ms")),
    Column("prefill ms", number("prefill_ms")),
    Column("TTFT ms", number("ttft_ms")),
    Column("tokens a second", number("decode_tokens_per_s")),
    Column("times faster", number("speedup", 2)),
    Column("right %", number("accuracy")),
    Column("on", text("device")),
)


@dataclass(frozen=True)
class ProfileRow(TimedRow):
    """One method at one retention, over all clips; times are means over questions of the median pass, see `means`.

    Parameters
    ----------
    source: origin of the figures, "clips" or the directory of results.
    frames, clips: number of frames of a clip, and of clips or questions.
    total_runtime_s: of a pass, including reading and decoding of videos.
    speedup: ttft_ms of the unpruned model over that of this row. accuracy: percent of correct answers, if judged.
    """

    model: str
    method: str
    source: str
    frames: int
    clips: int
    tokens_after: float
    total_runtime_s: float | None
    gpu_runtime_s: float
    peak_memory_gb: float
    decode_ms: float
    vit_ms: float | None
    other_ms: float
    prefill_ms: float
    ttft_ms: float
    decode_tokens_per_s: float | None
    speedup: float | None
    accuracy: float | None


def run(
    *,
    clips: Sequence[str | Path],
    model: str,
    method: str = "tango",
    retentions: Sequence[float] = RETENTIONS,
    frames: int | None = None,
    question: str = QUESTION,
    words: int = 32,
    repeats: int = 3,
    device: torch.device,
    dtype: str | None = None,
    progress: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    """Measure and yield a row per retention, the unpruned model first.

    Parameters
    ----------
    clips: files of videos, at least one.
    model: see `Settings.pretrained`.
    words: maximum length of an answer, in tokens.
    repeats: number of timed passes, after the warm-up.
    progress: called with a line at the start of each retention.

    Raises
    ------
    TangoError: no clips; see `Settings` and `Answerer`.
    """
    if not clips:
        raise InputError("there is no clip to profile: name video files, or --results with a folder of results")
    shares = [1.0, *(share for share in dict.fromkeys(retentions) if share != 1)]
    plans = [
        Settings(model, method, share, frames=frames, device=str(device), dtype=dtype, batch_size=1) for share in shares
    ]
    llm = load_model(plans[0])
    requests = [Request(question, [clip], options=GenerationOptions(max_new_tokens=words)) for clip in clips]
    whole: float | None = None
    for settings in plans:
        progress(f"{settings.method} at {settings.retention:g}: {repeats + 1} passes over {len(clips)} clips")
        passes = [_pass(Answerer(settings, llm), requests) for _ in range(repeats + 1)][1:]
        middle = sorted(passes, key=lambda each: each.seconds)[len(passes) // 2]
        about = means(middle.answers, middle.tower_ms)
        whole = about["ttft_ms"] if whole is None else whole
        row = ProfileRow(
            retention=settings.retention,
            dtype=str(llm.model.dtype).removeprefix("torch."),
            **machine(device),
            kernel=variant(device),
            warm_up=1,
            repeats=repeats,
            model=llm.name,
            method="all tokens" if settings.retention == 1 else settings.method,
            source="clips",
            frames=middle.answers[0].frames,
            clips=len(clips),
            total_runtime_s=middle.seconds,
            speedup=whole / about["ttft_ms"],
            accuracy=None,
            **about,
        )
        yield asdict(row)


@dataclass(frozen=True)
class _Pass:
    """A pass over all questions; `tower_ms` is the time of the vision encoder."""

    seconds: float
    answers: list[Completion]
    tower_ms: float | None


def _pass(answerer: Answerer, requests: Sequence[Request]) -> _Pass:
    with _tower_clock(answerer.llm.family) as clock:
        start = time.perf_counter()
        answers = answerer.answer(requests)
        seconds = time.perf_counter() - start
    return _Pass(seconds, answers, None if clock is None else clock.totals_ms["vit"])


@contextmanager
def _tower_clock(family: Family) -> Iterator[Stopwatch | None]:
    """Time the vision transformer within the context; yield None if the family has none of a known name."""
    tower = next(
        (found for name in _TOWERS if isinstance(found := getattr(family.encoder, name, None), nn.Module)), None
    )
    if tower is None:
        yield None
        return
    clock = Stopwatch(family.device, ("vit",))
    hooks = (
        tower.register_forward_pre_hook(partial(_enter, clock)),
        tower.register_forward_hook(partial(_leave, clock), always_call=True),
    )
    try:
        yield clock
    finally:
        for hook in hooks:
            hook.remove()


_TOWERS = ("vision_tower", "visual", "vision_model")
"""Names of the vision transformer in models."""


def _enter(clock: Stopwatch, *_: Any) -> None:
    clock.enter("vit")


def _leave(clock: Stopwatch, *_: Any) -> None:
    clock.leave()
