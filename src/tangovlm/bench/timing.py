"""Time of a call, the device rates that lower bounds are computed from, and the fields of a timed row."""

import math
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

R = TypeVar("R")

_RATE_RUNS = 5
_PRODUCT_SIDE = {"cpu": 2048, "cuda": 8192}
_READ_BYTES = {"cpu": 1 << 28, "cuda": 1 << 31}


@dataclass(frozen=True)
class Timing(Generic[R]):
    """Milliseconds of each timed run, and what the last run returned."""

    runs_ms: tuple[float, ...]
    result: R

    @property
    def median_ms(self) -> float:
        """Median over the runs."""
        return statistics.median(self.runs_ms)

    @property
    def p80_ms(self) -> float:
        """80th percentile over the runs."""
        if len(self.runs_ms) == 1:
            return self.runs_ms[0]
        return statistics.quantiles(self.runs_ms, n=5, method="inclusive")[3]


@dataclass(frozen=True)
class TimedRow:
    """The fields that the rows of all timed benchmarks share.

    Parameters
    ----------
    retention: fraction of the visual tokens that is kept.
    dtype: of the features.
    device, machine, threads, versions: see `tangovlm.report.provenance.machine`.
    kernel: the variant that pruning used.
    tokens_before: number of visual tokens.
    warm_up, repeats: number of runs that are not timed, and of runs that are.
    """

    retention: float
    dtype: str
    device: str
    machine: dict[str, Any]
    threads: int
    versions: dict[str, str]
    kernel: str
    tokens_before: int
    warm_up: int
    repeats: int


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a data type in rows and options, such as "float16"."""
    return str(dtype).removeprefix("torch.")


def synchronize(device: torch.device) -> None:
    """Wait until a CUDA device has finished its work; a no-op on the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(
    call: Callable[[], R], *, device: torch.device, repeats: int, warm_up: int = 0, limit_ms: float = math.inf
) -> Timing[R]:
    """Run a call ``warm_up + repeats`` times, ``repeats`` >= 1, and time each run until the device has finished.

    Parameters
    ----------
    limit_ms: stop once the timed runs have taken this long together.
    """
    times: list[float] = []
    while len(times) < warm_up + repeats:
        synchronize(device)
        start = time.perf_counter()
        result = call()
        synchronize(device)
        times.append(1e3 * (time.perf_counter() - start))
        if len(times) > warm_up and sum(times[warm_up:]) >= limit_ms:
            break
    return Timing(tuple(times[warm_up:]), result)


def wall_and_cpu_s(call: Callable[[], R], device: torch.device) -> tuple[R, float, float]:
    """The result of a call, and its seconds of wall clock and of CPU in all threads."""
    synchronize(device)
    start, cpu = time.perf_counter(), time.process_time()
    result = call()
    synchronize(device)
    return result, time.perf_counter() - start, time.process_time() - cpu


def synchronizations(call: Callable[[], object], device: torch.device) -> int | None:
    """The number of times that a call makes the host wait for a CUDA device; None on the CPU."""
    if device.type != "cuda":
        return None
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    return sum("synchroniz" in str(warning.message) for warning in caught)


def product_gflops(device: torch.device) -> float:
    """Rate of square float32 matrix products in GFLOP/s: the best of a few runs."""
    side = _PRODUCT_SIDE[device.type]
    left, right = (torch.ones(side, side, device=device) for _ in range(2))
    product = torch.empty(side, side, device=device)
    best = timed(lambda: torch.mm(left, right, out=product), device=device, repeats=_RATE_RUNS, warm_up=1)
    return 2 * side**3 / min(best.runs_ms) / 1e6


def read_gb_s(device: torch.device) -> float:
    """Bandwidth of reading uncached memory in GB/s (10^9 bytes): the best of a few runs."""
    values = torch.ones(_READ_BYTES[device.type] // 4, device=device)
    best = timed(values.sum, device=device, repeats=_RATE_RUNS, warm_up=1)
    return values.nbytes / min(best.runs_ms) / 1e6
