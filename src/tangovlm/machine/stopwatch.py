"""Milliseconds per stage, each moment charged to one stage only."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Stages may nest; the time of an inner stage is not counted in the outer one.

    Parameters
    ----------
    device: on CUDA the device is synchronised where a stage begins or ends, so that its work is charged to it.
    """

    def __init__(self, device: torch.device, stages: tuple[str, ...]) -> None:
        self.totals_ms = dict.fromkeys(stages, 0.0)
        self._device = device
        self._running: list[str] = []
        self._mark = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Charge what happens inside to `name`, also when it raises."""
        depth = len(self._running)
        self.enter(name)
        try:
            yield
        finally:
            self._charge()
            del self._running[depth:]

    def enter(self, name: str) -> None:
        """Begin a stage that `leave` or the end of an enclosing `stage` ends."""
        self._charge()
        self._running.append(name)

    def leave(self) -> None:
        """End the innermost stage."""
        self._charge()
        self._running.pop()

    def turn_into(self, name: str) -> None:
        """From now on charge the innermost running stage, if there is one, to another name."""
        self._charge()
        if self._running:
            self._running[-1] = name

    def _charge(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        if self._running:
            self.totals_ms[self._running[-1]] += 1000 * (now - self._mark)
        self._mark = now
