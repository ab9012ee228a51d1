"""Measuring milliseconds per stage."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Accumulates the time of stages. Stages may nest; the time of an inner stage is not counted in the outer one.

    Parameters
    ----------
    device: a CUDA device is synchronized when a stage begins or ends, so that its work is counted in that stage.
    stages: names of the stages, which `totals_ms` has from the beginning.
    """

    def __init__(self, device: torch.device, stages: tuple[str, ...]) -> None:
        self.totals_ms = dict.fromkeys(stages, 0.0)
        self._device = device
        self._running: list[str] = []
        self._mark = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time inside the context as `name`, also if it raises."""
        depth = len(self._running)
        self.enter(name)
        try:
            yield
        finally:
            self._count()
            del self._running[depth:]

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Count the time inside the context in no stage."""
        self._count()
        running, self._running = self._running, []
        try:
            yield
        finally:
            self._count()
            self._running = running

    def enter(self, name: str) -> None:
        """Begin a stage, which ends with `leave` or with the enclosing `stage`."""
        self._count()
        self._running.append(name)

    def leave(self) -> None:
        """End the innermost stage."""
        self._count()
        self._running.pop()

    def turn_into(self, name: str) -> None:
        """From now on count the innermost running stage, if any, under another name."""
        self._count()
        if self._running:
            self._running[-1] = name

    def _count(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        if self._running:
            self.totals_ms[self._running[-1]] += 1000 * (now - self._mark)
        self._mark = now
