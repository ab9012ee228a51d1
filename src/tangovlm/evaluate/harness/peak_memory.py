"""Peak memory of a call."""

import resource
import sys
from types import TracebackType
from typing import Self

import torch


class PeakMemory:
    """Measures the peak memory of a `with` statement.

    Parameters
    ----------
    device: of the model. On CUDA the peaks of allocated memory are summed over all devices, since a model may be spread
        over several. Otherwise it is the peak resident size of the process since its start.

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
