"""Measure how time and memory of pruning grow with the frames of a video, and with the number of videos."""

import math
import reprlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

import tangovlm
from tangovlm.errors import InputError
from tangovlm.kernels import variant
from tangovlm.report.provenance import machine
from tangovlm.tokens import Selection

from ..memory import check_fits, describe_out_of_memory, peak_memory
from ..tables import Column, number, text
from ..timing import TimedRow, dtype_name, timed
from ..videos import Shape, parse_shape, synthetic
from .benchmark import LIMIT_MS, WARM_UP
from .floor import clustered, known_flops
from .inputs import default_dtype, make_video, memory_request

FIRST_FRAMES = 8
BATCH_FRAMES = 32
_REMEDIES = ("fewer --frames", "a smaller --batch", "a smaller --shape")
KEYS = ("axis", "video", "shape", "videos", "retention", "dtype", "device", "machine", "threads")
"""The entries that identify a row: one with the same entries replaces another."""
COLUMNS = (
    Column("grows", text("axis")),
    Column("video", text("video")),
    Column("videos", number("videos", 0)),
    Column("T×H×W×D", lambda row: "×".join(map(str, row["shape"]))),
    Column("device", text("device")),
    Column("dtype", text("dtype")),
    Column("tokens", lambda row: f"{row['tokens_before']}→{row['tokens_after']}"),
    Column("ms", number("ms")),
    Column("ms a 1000 tokens", number("ms_per_1000_tokens", 2)),
    Column("power of time", number("growth", 2)),
    Column("power of distances", number("growth_of_distances", 2)),
    Column("extra MB", number("peak_extra_mb", 0)),
)


@dataclass(frozen=True)
class ScaleRow(TimedRow):
    """The measurement of one size; fields that `tangovlm.bench.prune.PruneRow` has too mean the same.

    Parameters
    ----------
    axis: the quantity that doubles from row to row, "frames" or "videos".
    videos: number of videos of one shape with different content, pruned one after another; counts and times are sums.
    ms_per_1000_tokens: of ``tokens_before``.
    growth: exponent of the growth of the time since the previous row, log2 of the ratio; None in the first row.
    growth_of_distances: the same for known_flops, the work of the clustering.
    """

    axis: str
    video: str
    shape: tuple[int, ...]
    videos: int
    tokens_after: int
    ms: float
    p80_ms: float
    ms_per_1000_tokens: float
    known_flops: int
    growth: float | None
    growth_of_distances: float | None
    peak_extra_mb: float
    memory_meter: str


def parse_grid(given: str) -> tuple[int, int, int]:
    """Read ``H,W,D``.

    Raises
    ------
    InputError: not three integers of at least 1 and at most nine digits.
    """
    try:
        _, *grid = parse_shape(f"1,{given}")
    except InputError:
        shown = reprlib.repr(given)
        raise InputError(f"--shape is {shown}: give rows, columns and channels as H,W,D, such as 14,14,896") from None
    height, width, dim = grid
    return height, width, dim


def check_frames(frames: int) -> int:
    """Raise `InputError` if the longest video is shorter than the first."""
    if frames < FIRST_FRAMES:
        raise InputError(f"--frames is {frames}: it must be at least {FIRST_FRAMES}, where the measurement begins")
    return frames


def run(
    *,
    grid: tuple[int, int, int],
    most_frames: int,
    most_videos: int,
    videos: Sequence[str],
    retention: float,
    device: torch.device,
    dtype: torch.dtype | None = None,
    repeats: int,
    progress: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    """Measure 8, 16, ... frames, then 1, 2, ... videos of 32 frames, and yield the rows.

    Parameters
    ----------
    grid: (H, W, D).
    videos: kinds, see `tangovlm.bench.videos`.
    dtype: of the features of all sizes; None for that of the longest video, see `default_dtype`.

    Raises
    ------
    InputError: too little memory, or a retention outside (0, 1].
    """
    pruner = tangovlm.Tango(retention=retention)
    chosen = dtype or default_dtype(Shape(most_frames, *grid), device)
    steps = [("frames", Shape(frames, *grid), 1) for frames in _doubled(FIRST_FRAMES, most_frames)]
    steps += [("videos", Shape(BATCH_FRAMES, *grid), count) for count in _doubled(1, most_videos)]
    words = [memory_request(shape, chosen, device, _REMEDIES, count) for _, shape, count in steps]
    for each in words:
        check_fits(*each)
    for kind in videos:
        before: ScaleRow | None = None
        for (axis, shape, count), each in zip(steps, words, strict=True):
            progress(f"{count} × {shape} {kind}, {dtype_name(chosen)}")
            with describe_out_of_memory(*each):
                row = _measure(axis, shape, count, kind, pruner, chosen, device, repeats, before)
            before = row
            yield asdict(row) | {"shape": list(shape)}


def _measure(
    axis: str,
    shape: Shape,
    count: int,
    kind: str,
    pruner: tangovlm.Tango,
    dtype: torch.dtype,
    device: torch.device,
    repeats: int,
    before: ScaleRow | None,
) -> ScaleRow:
    all_tokens = [make_video(shape, kind, [pruner], dtype, device)]
    all_tokens += [synthetic(shape, kind, dtype=dtype, device=device, seed=seed) for seed in range(1, count)]

    def prune_all() -> list[Selection]:
        return [pruner(tokens) for tokens in all_tokens]

    peak = peak_memory(prune_all, device)
    timing = timed(prune_all, device=device, repeats=repeats, limit_ms=LIMIT_MS)
    flops = sum(
        known_flops(clustered(tokens, selection, pruner.retention), shape.dim)
        for tokens, selection in zip(all_tokens, timing.result, strict=True)
    )
    previous = before if before is not None and before.axis == axis else None
    return ScaleRow(
        axis=axis,
        video=kind,
        shape=shape,
        videos=count,
        retention=pruner.retention,
        dtype=dtype_name(dtype),
        **machine(device),
        kernel=variant(device),
        tokens_before=count * shape.tokens,
        tokens_after=sum(len(selection.indices) for selection in timing.result),
        warm_up=WARM_UP,
        repeats=len(timing.runs_ms),
        ms=timing.median_ms,
        p80_ms=timing.p80_ms,
        ms_per_1000_tokens=1000 * timing.median_ms / (count * shape.tokens),
        known_flops=flops,
        growth=None if previous is None else _power(timing.median_ms, previous.ms),
        growth_of_distances=None if previous is None else _power(flops, previous.known_flops),
        peak_extra_mb=peak.extra_mb,
        memory_meter=peak.meter,
    )


def _power(value: float, before: float) -> float | None:
    return math.log2(value / before) if value and before else None


def _doubled(first: int, last: int) -> list[int]:
    """first, 2 * first, 4 * first, ... up to last."""
    return [first << step for step in range((last // first).bit_length())]
