"""Shared parts of the training stages: progress bar, atomic checkpoints, and batches."""

import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

_SMOOTHING = 0.97


class Progress:
    """A progress bar of `total` steps on stderr; `note` prints a separate line."""

    def __init__(self, name: str, total: int, done: int = 0) -> None:
        interval = 0.5 if sys.stderr.isatty() else 30.0
        self._bar = tqdm(total=total, initial=done, desc=name, mininterval=interval, dynamic_ncols=True)
        self._means: dict[str, float] = {}
        self._start = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def step(self, measures: dict[str, float], steps: int = 1) -> None:
        for name, value in measures.items():
            old = self._means.get(name, value)
            self._means[name] = _SMOOTHING * old + (1 - _SMOOTHING) * value
        self._bar.set_postfix({k: f"{v:.3f}" for k, v in self._means.items()}, refresh=False)
        self._bar.update(steps)

    def note(self, measures: dict[str, float]) -> None:
        minutes = (time.monotonic() - self._start) / 60
        line = "  ".join(f"{k} {v:.3f}" for k, v in measures.items())
        self._bar.write(f"[{minutes:6.1f} min, step {self._bar.n}] {line}", file=sys.stderr)


def save_checkpoint(state: dict[str, object], path: Path) -> None:
    """Replace `path` atomically, so that an interruption leaves either the old or the new checkpoint."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def batches(data: Dataset[Any], size: int | None, workers: int) -> DataLoader[Any]:
    """Load the items of `data` in order, `size` per batch (None if they are batches), in `workers` processes."""
    return DataLoader(data, batch_size=size, num_workers=workers, prefetch_factor=8 if workers else None)
