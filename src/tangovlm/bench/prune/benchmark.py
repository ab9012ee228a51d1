"""Time pruning alone, from visual tokens to the kept ones, with a plain reference and lower bounds for comparison."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

import tangovlm
from tangovlm import Selection, VideoTokens
from tangovlm.errors import MethodError
from tangovlm.kernels import fallback_note, variant
from tangovlm.report.provenance import machine
from tangovlm.tokens import Pruner

from ..memory import available_bytes, check_fits, describe_out_of_memory, peak_memory
from ..tables import Column, number, text
from ..timing import TimedRow, Timing, dtype_name, product_gflops, read_gb_s, synchronizations, timed
from ..videos import Shape
from .floor import clustered, known_flops
from .inputs import default_dtype, make_video, memory_request
from .milonga_reference import milonga_reference, milonga_reference_bytes
from .reference import Reduced, reference_bytes, tango_reference

Reference = tuple[Callable[[VideoTokens, float], Reduced], Callable[[int, int, int], int]]

SHAPES = {
    "onevision-7b": Shape(32, 14, 14, 3584),
    "llava-video-7b": Shape(64, 13, 13, 3584),
    "long": Shape(256, 14, 14, 3584),
    "very-long": Shape(1024, 14, 14, 3584),
}
"""The default shapes."""
KEYS = ("method", "video", "shape", "retention", "dtype", "device", "machine", "threads")
"""The entries that identify a row: one with the same entries replaces another."""
COLUMNS = (
    Column("method", text("method")),
    Column("T×H×W×D", lambda row: "×".join(map(str, row["shape"]))),
    Column("video", text("video")),
    Column("device", text("device")),
    Column("threads", text("threads")),
    Column("dtype", text("dtype")),
    Column("tokens", lambda row: f"{row['tokens_before']}→{row['tokens_after']}"),
    Column("ms", number("ms")),
    Column("reference ms", number("reference_ms")),
    Column("times faster", number("speedup")),
    Column("Tango ms", number("tango_ms")),
    Column("floor ms", lambda row: number("floor_ms")(row) if row["floor_ms"] else ""),
    Column("over floor", number("over_floor")),
    Column("bytes floor ms", number("floor_bytes_ms")),
    Column("extra MB", number("peak_extra_mb", 0)),
    Column("same tokens", lambda row: "" if row["overlap"] is None else f"{100 * row['overlap']:.1f} %"),
)

_REFERENCES: dict[str, Reference] = {
    "tango": (lambda tokens, retention: tango_reference(tokens, retention), reference_bytes),
    "milonga": (lambda tokens, retention: milonga_reference(tokens, retention), milonga_reference_bytes),
}
"""The plain reference of a method, and the memory that it needs for N tokens of D channels and a largest pool."""
WARM_UP = 1
"""The run whose memory is measured."""
_REFERENCE_RUNS = 3
_SMALLER = "a smaller --shape"
LIMIT_MS, _REFERENCE_MS = 60_000.0, 20_000.0
"""No further run of the library, and of the reference, starts once its runs have taken this long together."""


@dataclass(frozen=True)
class PruneRow(TimedRow):
    """The measurement of one video.

    Parameters
    ----------
    method: its name.
    name: of the shape. video: its kind, see `tangovlm.bench.videos`. shape: (T, H, W, D).
    tokens_after, segments: counts.
    ms, p80_ms: median and 80th percentile over the runs.
    reference_ms, reference_repeats: median and number of runs of the method's plain reference; if it was not run,
        reference_ms is None and reference_note says why.
    speedup: reference_ms / ms.
    tango_ms: median of Tango with as many tokens on the same video, in turns with the method; None for Tango itself.
    floor_ms: time of known_flops at rate_gflops: the pairwise distances of the points that Tango clusters, at the rate
        of float32 matrix products measured right after the runs; 0 for other methods. over_floor: ms / floor_ms.
    floor_bytes_ms: time to read the features once at read_gb_s, measured at the same moment.
    synchronizations: number of times that the host waits for a CUDA device; None on the CPU.
    peak_extra_mb: peak memory beyond the input in 10^6 bytes; memory_meter says how it was measured, see `memory.Peak`.
    equal_kept, overlap: whether the reference keeps the same tokens, and the fraction that it does. It rounds
        differently, which may decide between two candidates that are equal in float32.
    notes: fallbacks that were used.
    """

    method: str
    name: str
    video: str
    shape: Shape
    tokens_after: int
    segments: int
    ms: float
    p80_ms: float
    reference_ms: float | None
    reference_repeats: int
    reference_note: str | None
    speedup: float | None
    tango_ms: float | None
    known_flops: int
    rate_gflops: float
    floor_ms: float
    over_floor: float | None
    read_gb_s: float
    floor_bytes_ms: float
    synchronizations: int | None
    peak_extra_mb: float
    memory_meter: str
    equal_kept: bool | None
    overlap: float | None
    notes: list[str]


@dataclass(frozen=True)
class Rates:
    """Current rates of the device: float32 matrix products in GFLOP/s, and memory reads in GB/s."""

    gflops: float
    gb_s: float

    @classmethod
    def measure(cls, device: torch.device) -> "Rates":
        """Measure both rates."""
        return cls(product_gflops(device), read_gb_s(device))


def run(
    *,
    method: str = "tango",
    shapes: Sequence[Shape] = (),
    videos: Sequence[str],
    retention: float,
    device: torch.device,
    dtype: torch.dtype | None = None,
    repeats: int,
    reference: bool = True,
    progress: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    """Measure every shape with every kind of video and yield a row for each.

    Parameters
    ----------
    method: name of a method before the language model that needs no signal but saliency and timestamps.
    shapes: if empty, `SHAPES`.
    dtype: of the features; None for `default_dtype`.
    repeats: number of runs of the library, fewer if they take minutes. The reference has at most three.
    reference: whether to run the plain reference, if memory suffices.
    progress: called with a line at the start of each step.

    Raises
    ------
    InputError: too little memory, or a retention outside (0, 1].
    MethodError: no such method, or one that works inside the language model.
    """
    pruner = tangovlm.method(method, retention=retention)
    if pruner.stage != "pre-llm":
        raise MethodError(f"--method is {method!r}, which needs a language model: choose one before it, such as tango")
    shapes = shapes or tuple(SHAPES.values())
    for shape in shapes:
        check_fits(*memory_request(shape, dtype or default_dtype(shape, device), device, [_SMALLER]))
    # The estimate excludes the reference, so that --no-reference helps only if memory runs out during a run.
    remedies = ["--no-reference", _SMALLER] if reference else [_SMALLER]
    for shape in shapes:
        for kind in videos:
            chosen = dtype or default_dtype(shape, device)
            with describe_out_of_memory(*memory_request(shape, chosen, device, remedies)):
                row = _measure(shape, kind, pruner, chosen, device, repeats, reference, progress)
            yield asdict(row) | {"shape": list(shape)}


def _measure(
    shape: Shape,
    kind: str,
    pruner: Pruner,
    dtype: torch.dtype,
    device: torch.device,
    repeats: int,
    reference: bool,
    progress: Callable[[str], None],
) -> PruneRow:
    progress(f"{shape} {kind}, {dtype_name(dtype)}: making the video, measuring memory")
    calls: list[Callable[[VideoTokens], object]] = [pruner]
    plain = _REFERENCES.get(pruner.name) if reference else None
    tango = None if pruner.name == "tango" else tangovlm.Tango(retention=pruner.retention)
    if plain:
        run_plain = plain[0]
        calls.append(lambda tokens: run_plain(tokens, pruner.retention))
    if tango:
        calls.append(tango)
    tokens = make_video(shape, kind, calls, dtype, device)
    # Memory is measured in the first run of this size, so that buffers which libraries keep are counted.
    peak = peak_memory(lambda: pruner(tokens), device)
    points = [] if tango else clustered(tokens, peak.result, pruner.retention)
    why_not = _why_not(tokens, plain, max(points, default=0)) if reference else "not asked for"
    progress(
        f"{shape} {kind}, {dtype_name(dtype)}: timing" + (f", without the reference: {why_not}" if why_not else "")
    )
    timing, beside, other = _race(pruner, tokens, repeats, None if why_not else plain, tango)
    # Measured right after the runs, so that other load on the machine affects both.
    rates = Rates.measure(device)
    floor_ms = known_flops(points, shape.dim) / rates.gflops / 1e6
    kept = timing.result.indices.cpu()
    reference_ms = None if beside is None else beside.median_ms
    same = None if beside is None else torch.isin(kept, beside.result.indices)
    return PruneRow(
        method=pruner.name,
        name=_name(shape),
        video=kind,
        shape=shape,
        retention=pruner.retention,
        dtype=dtype_name(dtype),
        **machine(device),
        kernel=variant(device),
        tokens_before=tokens.count,
        tokens_after=len(kept),
        segments=len(timing.result.segments),
        warm_up=WARM_UP,
        repeats=len(timing.runs_ms),
        ms=timing.median_ms,
        p80_ms=timing.p80_ms,
        reference_ms=reference_ms,
        reference_repeats=0 if beside is None else len(beside.runs_ms),
        reference_note=why_not,
        speedup=None if reference_ms is None else reference_ms / timing.median_ms,
        tango_ms=other,
        known_flops=known_flops(points, shape.dim),
        rate_gflops=rates.gflops,
        floor_ms=floor_ms,
        over_floor=timing.median_ms / floor_ms if floor_ms else None,
        read_gb_s=rates.gb_s,
        floor_bytes_ms=tokens.features.nbytes / rates.gb_s / 1e6,
        synchronizations=synchronizations(lambda: pruner(tokens), device),
        peak_extra_mb=peak.extra_mb,
        memory_meter=peak.meter,
        equal_kept=None if same is None else bool(same.all()),
        overlap=None if same is None else same.double().mean().item(),
        notes=[*timing.result.notes, *fallback_note(device)],
    )


def _why_not(tokens: VideoTokens, plain: Reference | None, largest_pool: int) -> str | None:
    """Why the reference cannot run; None if it can."""
    if plain is None:
        return "the method has none"
    size, free = plain[1](tokens.count, tokens.dim, largest_pool), available_bytes(tokens.features.device)
    return (
        None
        if free is None or size <= free
        else f"needs about {size / 10**9:.1f} GB and {free / 10**9:.1f} GB are free"
    )


def _race(
    pruner: Pruner, tokens: VideoTokens, repeats: int, plain: Reference | None, tango: Pruner | None
) -> tuple[Timing[Selection], Timing[Reduced] | None, float | None]:
    """Time the library, its reference and Tango in turns, so that other load affects all; the reference less often.

    Returns the timings of the first two, and the median milliseconds of Tango.
    """
    device = tokens.features.device
    rounds = min(repeats, _REFERENCE_RUNS)
    own: list[Timing[Selection]] = []
    other: list[Timing[Reduced]] = []
    tangos: list[Timing[Selection]] = []
    for turn in range(rounds):
        share = repeats // rounds + (turn < repeats % rounds)
        limits: dict[str, Any] = {"device": device, "repeats": share, "limit_ms": LIMIT_MS / rounds}
        own.append(timed(lambda: pruner(tokens), **limits))
        if tango:
            tangos.append(timed(lambda: tango(tokens), **limits))
        if plain and sum(_all_runs(other)) < _REFERENCE_MS:
            other.append(timed(lambda: plain[0](tokens, pruner.retention), device=device, repeats=1))
    return (
        Timing(_all_runs(own), own[-1].result),
        Timing(_all_runs(other), other[-1].result) if other else None,
        Timing(_all_runs(tangos), None).median_ms if tangos else None,
    )


def _all_runs(parts: Sequence[Timing[Any]]) -> tuple[float, ...]:
    return tuple(ms for part in parts for ms in part.runs_ms)


def _name(shape: Shape) -> str:
    return next((name for name, known in SHAPES.items() if known == shape), "chosen")
