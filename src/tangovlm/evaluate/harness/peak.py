"""The most memory that a call took."""

import resource
import sys
from types import TracebackType
from typing import Self

import torch


class Peak:
    """Meters a `with` statement.

    Parameters
    ----------
    device: of the model. On CUDA what all devices allocated at most is summed, as a model may lie on several; else the
        peak resident size of the process so far counts.

    Attributes
    ----------
    bytes: filled on exit.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self.bytes = 0

    def __enter__(self) -> Self:
        for number in self._devices():
            torch.cuda.reset_peak_memory_stats(number)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._cuda:
            self.bytes = sum(torch.cuda.max_memory_allocated(number) for number in self._devices())
        else:
            # In kilobytes, but in bytes on macOS.
            unit = 1 if sys.platform == "darwin" else 1024
            self.bytes = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def _devices(self) -> range:
        return range(torch.cuda.device_count() if self._cuda else 0)
