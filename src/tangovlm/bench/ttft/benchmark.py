"""Time the first token of whole models of published shapes, pruned and unpruned, from decoded frames in CPU memory."""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

import tangovlm
from tangovlm.errors import InputError
from tangovlm.kernels import variant
from tangovlm.machine.memory import is_out_of_memory
from tangovlm.models.common.family import Family
from tangovlm.report.provenance import machine
from tangovlm.session.attach import attach_family

from ..memory import MB, check_fits, peak_memory
from ..tables import Column, number, text
from ..timing import TimedRow, Timing, dtype_name, timed
from .models import HOSTS, Host, check
from .random_weights import clips
from .stages import STAGES, Steps, stage_times

MODELS = tuple(HOSTS)
FRAMES = {"7b": (32, 64), "0.5b": (32,), "tiny": (8,)}
BATCHES = {"7b": (1, 8), "0.5b": (1,), "tiny": (1,)}
"""Default frames and batch sizes of each model size; "tiny" takes half a minute on two cores."""
RETENTIONS = (1.0, 0.2, 0.15, 0.1)
KEYS = ("model", "size", "frames", "batch", "retention", "dtype", "device", "machine", "threads")
"""The entries that identify a row: one with the same entries replaces another."""
COLUMNS = (
    Column("model", lambda row: f"{row['model']} {row['size']}"),
    Column("device", text("device")),
    Column("dtype", text("dtype")),
    Column("frames", text("frames")),
    Column("batch", text("batch")),
    Column("kept", text("retention")),
    Column("tokens", lambda row: f"{row['tokens_before']} → {row['tokens_after'] or '?'}"),
    Column("first token ms", number("ttft_ms")),
    Column("times faster", number("speedup", 2)),
    *(Column(f"{stage} ms", number(f"{stage}_ms")) for stage in STAGES),
    Column("pruning", lambda row: "" if row["prune_share"] is None else f"{100 * row['prune_share']:.1f} %"),
    Column("tokens/s", number("decode_tok_s")),
    Column("peak MB", number("peak_mb", 0)),
    Column("note", lambda row: row["note"] or ""),
)

WARM_UP = 1
NEW_TOKENS = 16


@dataclass(frozen=True)
class TtftRow(TimedRow):
    """One model on one kind of input. Figures that were not measured are None, and ``note`` says why.

    Parameters
    ----------
    size: see `evaluate.shapes`. batch: number of videos, with one prompt each.
    tokens_before, tokens_after: visual tokens of one video. segments: number of segments of the first video.
    warm_up, repeats: number of runs up to the first token before the timed ones (after the run that measures memory),
        and of timed runs; they alternate with those of the other retentions, so that other load affects all.
    ttft_ms, ttft_p80_ms: median and 80th percentile of these runs, from frames to the first token. Retention 1.0 is the
        stock model without a session, and nothing is synchronized in between; with a session, its stopwatch waits for
        a CUDA device at the start and end of each of its stages, and the time includes that.
    pixels_ms, tower_ms, project_ms, prune_ms, prefill_ms: medians of as many separate runs, without a warm-up and
        synchronized between stages: copying and normalizing frames; the vision tower and, if pruned, the hooks on it
        that record the saliency, including the pooling head; projector and pooling; everything that the session adds
        after that; the rest. See `stages`.
    decode_tok_s: tokens per second of all videos together, after the first; from one run of `NEW_TOKENS` more tokens.
    peak_mb: peak memory up to the first token in 10^6 bytes, including weights; memory_meter says how it was measured.
    speedup: ttft_ms of the unpruned row over that of this row. prune_share: prune_ms over the sum of the stages.
    """

    model: str
    size: str
    frames: int
    batch: int
    tokens_after: int | None = None
    segments: int | None = None
    ttft_ms: float | None = None
    ttft_p80_ms: float | None = None
    pixels_ms: float | None = None
    tower_ms: float | None = None
    project_ms: float | None = None
    prune_ms: float | None = None
    prefill_ms: float | None = None
    decode_tok_s: float | None = None
    weights_mb: float | None = None
    peak_mb: float | None = None
    memory_meter: str | None = None
    speedup: float | None = None
    prune_share: float | None = None
    note: str | None = None


def run(
    *,
    size: str = "7b",
    models: Sequence[str] = MODELS,
    frames: Sequence[int] = (),
    batches: Sequence[int] = (),
    retentions: Sequence[float] = RETENTIONS,
    device: torch.device,
    dtype: torch.dtype | None = None,
    repeats: int,
    progress: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    """Measure every model with every number of frames, batch and retention, and yield the rows.

    The unpruned model is always measured in the same run, and its row is the first.

    Parameters
    ----------
    size: "7b", "0.5b", or "tiny", which has 13 million parameters.
    models: names of `MODELS`.
    frames, batches: if empty, those of the size in `FRAMES` and `BATCHES`.
    dtype: None for bfloat16 on CUDA and float32 on the CPU.
    repeats: number of runs up to the first token, and of runs in stages; at least 1.
    progress: called with a line at the start of each step.

    Raises
    ------
    InputError: an unknown size or model, a retention outside (0, 1], numbers below 1, or too little memory for the
        largest input.
    """
    check(size, models)
    frames, batches = frames or FRAMES[size], batches or BATCHES[size]
    if min(*frames, *batches, repeats) < 1:
        raise InputError("frames, batch and repeats must be at least 1")
    pruned = [tangovlm.Tango(retention=value) for value in dict.fromkeys(retentions) if value != 1.0]
    chosen = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    for name in models:
        required = HOSTS[name].required_bytes(size, chosen, max(frames), max(batches))
        what = f"{name} of size {size} with {max(frames)} frames and batch {max(batches)}"
        check_fits(required, device, what, "choose a smaller --size (0.5b, tiny), fewer --frames or a smaller --batch")
    for name in models:
        # A separate function, so that its model is freed before the next one is built.
        yield from _model_rows(name, size, frames, batches, pruned, device, chosen, repeats, progress)


def _model_rows(
    name: str,
    size: str,
    frames: Sequence[int],
    batches: Sequence[int],
    pruners: Sequence[tangovlm.Tango],
    device: torch.device,
    dtype: torch.dtype,
    repeats: int,
    progress: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    progress(f"{name} {size}: making the weights")
    gc.collect()
    host = HOSTS[name](size, device, dtype)
    blank = TtftRow(
        model=name,
        size=size,
        frames=0,
        batch=0,
        retention=1.0,
        dtype=dtype_name(dtype),
        **machine(device),
        kernel=variant(device),
        tokens_before=0,
        warm_up=WARM_UP,
        repeats=repeats,
        weights_mb=sum(weight.nbytes for weight in host.model.parameters()) / MB,
    )
    for number_of_frames in frames:
        for batch in batches:
            yield from _Bench(host, number_of_frames, batch, repeats, progress).rows(blank, pruners)


@dataclass
class _Entry:
    """A row during the measurement."""

    row: TtftRow
    pruner: tangovlm.Tango | None = None
    runs_ms: tuple[float, ...] = ()


class _Bench:
    """One model on one kind of input."""

    def __init__(self, host: Host, frames: int, batch: int, repeats: int, progress: Callable[[str], None]) -> None:
        self._host, self._frames, self._batch, self._repeats = host, frames, batch, repeats
        self._progress = progress
        self._clips = clips(batch, frames, host.frame_side)
        self._prompt = host.prompt(batch, frames)

    def rows(self, blank: TtftRow, pruners: Sequence[tangovlm.Tango]) -> Iterator[dict[str, Any]]:
        """Yield the unpruned row and those of the pruners."""
        blank = replace(
            blank, frames=self._frames, batch=self._batch, tokens_before=self._host.visual_tokens(self._frames)
        )
        entries = [_Entry(blank), *(_Entry(replace(blank, retention=each.retention), each) for each in pruners)]
        for step in (self._measure_memory, *[self._time_first_token] * self._repeats, self._time_stages):
            for entry in entries:
                self._attempt(step, entry)
        stock = entries[0].row.ttft_ms
        for row in (entry.row for entry in entries):
            yield asdict(replace(row, speedup=stock / row.ttft_ms) if stock and row.ttft_ms else row)

    @torch.inference_mode()
    def _attempt(self, step: Callable[[_Entry], None], entry: _Entry) -> None:
        """Run a step unless an earlier one failed; if memory runs out, note it in the row."""
        if entry.row.note is not None:
            return
        try:
            step(entry)
        except (RuntimeError, MemoryError, InputError) as error:
            cause = error.__cause__ if isinstance(error, InputError) else error
            if not isinstance(cause, Exception) or not is_out_of_memory(cause):
                raise
            entry.row = replace(entry.row, note="out of memory", peak_mb=None, memory_meter=None)

    def _measure_memory(self, entry: _Entry) -> None:
        """Measure memory in the first run of this size, which includes buffers that libraries keep, and warm up."""
        row = entry.row
        self._progress(f"{row.model} {row.size}, {row.frames} frames, batch {row.batch}, retention {row.retention}")
        with self._attached(entry.pruner):
            peak = peak_memory(self._first_token, self._host.device)
            for _ in range(WARM_UP):
                self._first_token()
        entry.row = replace(row, peak_mb=(row.weights_mb or 0.0) + peak.extra_mb, memory_meter=peak.meter)

    def _time_first_token(self, entry: _Entry) -> None:
        """Time one run up to the first token."""
        with self._attached(entry.pruner):
            entry.runs_ms += timed(self._first_token, device=self._host.device, repeats=1).runs_ms

    def _time_stages(self, entry: _Entry) -> None:
        """Time decoding and the stages, and fill in the row except for the speed-up."""
        steps, timing = Steps(self._host.device), Timing(entry.runs_ms, None)
        with self._attached(entry.pruner) as session:
            self._generate(1 + NEW_TOKENS, logits_processor=[steps])
        stages = stage_times(
            self._host, lambda: self._attached(entry.pruner), self._pixels, self._generate, self._repeats
        )
        figures: dict[str, Any] = {f"{stage}_ms": ms for stage, ms in stages.items()}
        videos = None if session is None else session.report.videos[-self._batch :]
        entry.row = replace(
            entry.row,
            tokens_after=entry.row.tokens_before if videos is None else videos[0].tokens_after,
            segments=None if videos is None else len(videos[0].segments),
            ttft_ms=timing.median_ms,
            ttft_p80_ms=timing.p80_ms,
            **figures,
            decode_tok_s=self._batch * steps.per_second,
            prune_share=stages["prune"] / sum(stages.values()),
        )

    @cached_property
    def _family(self) -> Family:
        return self._host.family()

    def _attached(self, pruner: tangovlm.Tango | None) -> Any:
        """The context in which the model prunes; without a pruner, the stock model."""
        if pruner is None:
            return nullcontext()
        return attach_family(self._family, pruner, timestamps=torch.arange(self._frames, dtype=torch.float64))

    def _pixels(self) -> dict[str, Tensor]:
        return self._host.pixels(self._clips)

    def _first_token(self) -> None:
        self._generate(1)

    def _generate(self, new: int, pixels: dict[str, Tensor] | None = None, **options: Any) -> None:
        pixels = self._pixels() if pixels is None else pixels
        self._host.model.generate(**self._prompt, **pixels, max_new_tokens=new, do_sample=False, **options)
