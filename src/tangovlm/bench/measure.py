"""Time of a call, and the rates that floors are computed from. Nothing here runs unless it is called."""

import math
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

R = TypeVar("R")

_RATE_RUNS = 5
_PRODUCT_SIDE = {"cpu": 2048, "cuda": 8192}
_READ_BYTES = {"cpu": 1 << 28, "cuda": 1 << 31}


@dataclass(frozen=True)
class Timing(Generic[R]):
    """Milliseconds of each run, without the warm-up, and what the last run returned."""

    runs_ms: tuple[float, ...]
    result: R

    @property
    def median_ms(self) -> float:
        """The middle run."""
        return statistics.median(self.runs_ms)

    @property
    def p80_ms(self) -> float:
        """Four of five runs are no slower."""
        if len(self.runs_ms) == 1:
            return self.runs_ms[0]
        return statistics.quantiles(self.runs_ms, n=5, method="inclusive")[3]


def synchronize(device: torch.device) -> None:
    """Wait for a device; the CPU has nothing to wait for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(
    call: Callable[[], R], *, device: torch.device, repeats: int, warm_up: int = 0, limit_ms: float = math.inf
) -> Timing[R]:
    """Run a call ``warm_up + repeats`` times, ``repeats`` >= 1, and take the time until the device is done.

    Parameters
    ----------
    limit_ms: no further run begins once the measured ones have taken so long.
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


def synchronizations(call: Callable[[], object], device: torch.device) -> int | None:
    """How often a call makes the host wait for a CUDA device; None for the CPU."""
    if device.type != "cuda":
        return None
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return sum("synchroniz" in str(warning.message) for warning in found)


def product_gflops(device: torch.device) -> float:
    """Rate of square float32 matrix products: 10^9 floating-point operations a second, the best of a few runs."""
    side = _PRODUCT_SIDE[device.type]
    left, right = (torch.ones(side, side, device=device) for _ in range(2))
    product = torch.empty(side, side, device=device)
    best = timed(lambda: torch.mm(left, right, out=product), device=device, repeats=_RATE_RUNS, warm_up=1)
    return 2 * side**3 / min(best.runs_ms) / 1e6


def read_gb_s(device: torch.device) -> float:
    """Rate at which memory that no cache holds is read: 10^9 bytes a second, the best of a few runs."""
    values = torch.ones(_READ_BYTES[device.type] // 4, device=device)
    best = timed(values.sum, device=device, repeats=_RATE_RUNS, warm_up=1)
    return values.nbytes / min(best.runs_ms) / 1e6
