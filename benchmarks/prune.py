"""Time of pruning alone, on synthetic tokens of the sizes that real models give.

Prints a table and, as the last line, one JSON object. Usage: python benchmarks/prune.py [--repeats N] [--device D]
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch

import tangovlm
from tangovlm import Selection, VideoTokens

# (name, T, H, W, D): LLaVA-OneVision 0.5B and 7B on 32 frames, 7B on 64, and a grid of another shape.
SIZES = (
    ("onevision-0.5b", 32, 14, 14, 896),
    ("onevision-7b", 32, 14, 14, 3584),
    ("onevision-7b-long", 64, 14, 14, 3584),
    ("wide", 16, 12, 21, 2048),
)
RETENTION = 0.1
WARM_UP = 2


@dataclass(frozen=True)
class Row:
    """One measured size; times in milliseconds."""

    name: str
    shape: tuple[int, int, int, int]
    tokens_before: int
    tokens_after: int
    median_ms: float
    p80_ms: float


def synthetic(frames: int, height: int, width: int, dim: int, device: torch.device) -> VideoTokens:
    """Four scenes whose tokens drift slowly, as neighbouring frames of a film do."""
    generator = torch.Generator().manual_seed(0)
    scenes = torch.randn(4, height, width, dim, generator=generator)
    drift = torch.randn(frames, height, width, dim, generator=generator).cumsum(0) * 0.05
    features = scenes[torch.arange(frames) * 4 // frames] + drift
    saliency = torch.rand(frames, height, width, generator=generator)
    return VideoTokens(
        features=features.to(device),
        saliency=saliency.to(device),
        timestamps=torch.arange(frames, dtype=torch.float64, device=device),
    )


def measure(prune: Callable[[VideoTokens], Selection], tokens: VideoTokens, repeats: int) -> tuple[int, list[float]]:
    """(tokens kept, milliseconds of each run after the warm-up)."""
    wait = torch.cuda.synchronize if tokens.features.is_cuda else _nothing
    times: list[float] = []
    kept = 0
    for _ in range(WARM_UP + repeats):
        wait()
        start = time.perf_counter()
        kept = len(prune(tokens).indices)
        wait()
        times.append(1e3 * (time.perf_counter() - start))
    return kept, times[WARM_UP:]


def _nothing() -> None:
    """The CPU has nothing to wait for."""


def rows(device: torch.device, repeats: int) -> list[Row]:
    prune = tangovlm.Tango(retention=RETENTION)
    found = []
    for name, frames, height, width, dim in SIZES:
        tokens = synthetic(frames, height, width, dim, device)
        kept, times = measure(prune, tokens, repeats)
        p80 = statistics.quantiles(times, n=5, method="inclusive")[3]
        shape = (frames, height, width, dim)
        found.append(Row(name, shape, tokens.count, kept, statistics.median(times), p80))
    return found


def machine(device: torch.device) -> dict[str, str | int]:
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else platform.processor() or platform.machine(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "tangovlm": tangovlm.__version__,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=10, help="measured runs of each size (at least 2)")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    options = parser.parse_args(arguments)
    table = rows(options.device, max(2, options.repeats))
    print(f"{'size':<20}{'T x H x W x D':<22}{'tokens':>14}{'median ms':>12}{'p80 ms':>10}")
    for row in table:
        shape = " x ".join(str(letter) for letter in row.shape)
        tokens = f"{row.tokens_before} > {row.tokens_after}"
        print(f"{row.name:<20}{shape:<22}{tokens:>14}{row.median_ms:>12.1f}{row.p80_ms:>10.1f}")
    result = {
        "benchmark": "prune",
        "method": "tango",
        "retention": RETENTION,
        "dtype": "float32",
        "warm_up": WARM_UP,
        "repeats": max(2, options.repeats),
        **machine(options.device),
        "rows": [asdict(row) for row in table],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
