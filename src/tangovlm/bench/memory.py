"""Peak memory of a call, available memory, and errors that name the size if there is too little."""

import ctypes
import gc
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tangovlm.errors import InputError
from tangovlm.machine.memory import is_out_of_memory

from .timing import synchronize

R = TypeVar("R")

MB = 10**6
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
_MORE = re.compile(r"allocate ([\d.]+ \w+)")
"""The requested size in the messages of allocators."""
_CONTROL_GROUPS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Control groups of version 2 and 1 inside a container: directory, limit, usage, and reclaimable part of the usage."""


@dataclass(frozen=True)
class Peak(Generic[R]):
    """The peak memory of a call beyond what was allocated before, and the result of the call.

    `meter` says how it was measured: "cuda" (by the CUDA allocator), "resident" (resident memory of the process,
    including buffers of libraries) or "tensors" (bytes of the tensors that operations return,
    without temporaries inside them).
    """

    extra_bytes: int
    meter: str
    result: R

    @property
    def extra_mb(self) -> float:
        """Peak in 10^6 bytes."""
        return self.extra_bytes / MB


def peak_memory(call: Callable[[], R], device: torch.device) -> Peak[R]:
    """Run a call and measure its peak memory. Libraries that the call loads are counted, so load them before."""
    gc.collect()
    if device.type == "cuda":
        synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = call()
        synchronize(device)
        return Peak(torch.cuda.max_memory_allocated(device) - before, "cuda", result)
    if _reset_peak():
        before = _status_bytes("VmRSS")
        result = call()
        return Peak(max(0, _status_bytes("VmHWM") - before), "resident", result)
    with TensorBytes() as tensors:
        result = call()
    return Peak(tensors.peak, "tensors", result)


class TensorBytes(TorchDispatchMode):
    """Context that counts the bytes of the live tensors that operations returned.

    `peak` is their maximum at any time. Tensors that existed before do not count.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._known: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self._known = {key: entry for key, entry in self._known.items() if not entry[0].expired()}
        kwargs = kwargs or {}
        # An argument that no operation returned existed before: it counts zero bytes.
        self._register((args, kwargs), counted=False)
        result = func(*args, **kwargs)
        self._register(result, counted=True)
        self.peak = max(self.peak, sum(size for _, size in self._known.values()))
        return result

    def _register(self, tree: Any, *, counted: bool) -> None:
        for leaf in tree_leaves(tree):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                # The reference prevents another storage from getting the same address.
                entry = StorageWeakRef(storage), storage.nbytes() if counted else 0
                self._known.setdefault(storage._cdata, entry)


def available_bytes(device: torch.device) -> int | None:
    """Available memory, including what the operating system can reclaim; None if unknown."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # The allocator reuses reserved memory that no tensor occupies.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    limits = (_meminfo_bytes(), _address_space_bytes(), *_control_group_bytes())
    return min((limit for limit in limits if limit is not None), default=None)


def check_fits(required: int, device: torch.device, what: str, remedy: str) -> None:
    """Check that a measurement fits into memory, before anything is allocated.

    Raises
    ------
    InputError: more bytes are required than available; the message names ``what`` needs them and a ``remedy``.
    """
    free = available_bytes(device)
    if free is not None and required > free:
        raise InputError(f"{what} needs about {_gb(required)} of memory on {device} and {_gb(free)} are free: {remedy}")


@contextmanager
def describe_out_of_memory(required: int, device: torch.device, what: str, remedy: str) -> Iterator[None]:
    """Turn a failed allocation into an `InputError` that names the size.

    Parameters
    ----------
    required: estimate of the bytes that ``what`` needs in total.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        free, more = available_bytes(device), _MORE.search(str(error))
        words = [f"it needs about {_gb(required)}"]
        words += [f"{more[1]} more could not be allocated"] if more else []
        words += [] if free is None else [f"{_gb(free)} are free now"]
        raise InputError(f"{what} ran out of memory on {device} ({', '.join(words)}): {remedy}") from error


def _gb(size: int) -> str:
    return f"{size / 10**9:.1f} GB"


def _reset_peak() -> bool:
    """Release free memory and reset the peak to the current usage; False if the system cannot."""
    try:
        # Memory that the C library caches would not be counted when it is reused.
        ctypes.CDLL(None).malloc_trim(0)
        _RESET.write_text(_RESET_PEAK, encoding="ascii")
        _status_bytes("VmHWM")
    except (OSError, AttributeError, KeyError, TypeError):
        return False
    return True


def _status_bytes(name: str) -> int:
    """An entry of the status of this process.

    Raises
    ------
    KeyError: the system does not report it.
    """
    return _entries(_STATUS)[name]


def _meminfo_bytes() -> int | None:
    try:
        return _entries(Path("/proc/meminfo")).get("MemAvailable")
    except OSError:
        return None


def _address_space_bytes() -> int | None:
    """The remaining address space of this process, if it is limited."""
    try:
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        return None if limit == resource.RLIM_INFINITY else limit - _status_bytes("VmSize")
    except (ImportError, OSError, KeyError):
        return None


def _entries(path: Path) -> dict[str, int]:
    """The lines ``name: value kB`` of a file of the Linux kernel, in bytes."""
    lines = (line.split() for line in path.read_text(encoding="ascii", errors="replace").splitlines())
    return {words[0].rstrip(":"): 1024 * int(words[1]) for words in lines if words[-1] == "kB"}


def _control_group_bytes() -> Iterator[int | None]:
    """The memory that is left to a container."""
    for name, limit, used, cache in _CONTROL_GROUPS:
        folder = Path(name)
        try:
            counts = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
            numbers = [int((folder / file).read_text(encoding="ascii")) for file in (limit, used)]
            yield numbers[0] - numbers[1] + int(counts.get(cache, 0))
        except (OSError, ValueError):
            yield None
