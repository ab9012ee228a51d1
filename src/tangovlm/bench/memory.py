"""How much memory a call takes beyond what was there, how much there is, and what to say when there is too little."""

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

from .measure import synchronize

R = TypeVar("R")

MB = 10**6
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
_MORE = re.compile(r"allocate ([\d.]+ \w+)")
"""How allocators say what they were asked for."""
_CONTROL_GROUPS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Of version 2 and 1, as a container sees its own: folder, limit, use, and the part of it that can be given back."""


@dataclass(frozen=True)
class Peak(Generic[R]):
    """The most that a call held beyond what was there before it, and what it returned.

    `meter` is how that was found: "cuda" (its allocator), "resident" (memory of the process, libraries' own buffers
    included) or "tensors" (bytes of the tensors that operations returned; what lives inside one is not seen).
    """

    extra_bytes: int
    meter: str
    result: R

    @property
    def extra_mb(self) -> float:
        """In 10^6 bytes."""
        return self.extra_bytes / MB


def peak_memory(call: Callable[[], R], device: torch.device) -> Peak[R]:
    """Run a call and meter its memory; load the libraries that it uses before, or they are counted."""
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
    """Counts the bytes of the tensors that operations return while they live; use as a context.

    `peak` is the most there were at a time. Tensors that were there before do not count.
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
        # What an operation is given and none has returned was there before, and weighs nothing.
        self._meet((args, kwargs), weighs=False)
        result = func(*args, **kwargs)
        self._meet(result, weighs=True)
        self.peak = max(self.peak, sum(size for _, size in self._known.values()))
        return result

    def _meet(self, tree: Any, *, weighs: bool) -> None:
        for leaf in tree_leaves(tree):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                # The reference keeps the address from being given to another storage.
                entry = StorageWeakRef(storage), storage.nbytes() if weighs else 0
                self._known.setdefault(storage._cdata, entry)


def available_bytes(device: torch.device) -> int | None:
    """Memory that can still be had, with what the operating system would give back; None where nobody says."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # The allocator keeps what tensors no longer use, and gives it out again.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    told = [found for found in (_meminfo_bytes(), _address_space_bytes(), *_control_group_bytes()) if found is not None]
    return min(told, default=None)


def check_fits(wanted: int, device: torch.device, what: str, way_out: str) -> None:
    """Refuse what cannot fit before anything is allocated.

    Raises
    ------
    InputError: more bytes ``wanted`` than there are; says ``what`` wants them and the ``way_out``.
    """
    free = available_bytes(device)
    if free is not None and wanted > free:
        raise InputError(f"{what} wants about {_gb(wanted)} of memory on {device} and {_gb(free)} are free: {way_out}")


@contextmanager
def told_out_of_memory(wanted: int, device: torch.device, what: str, way_out: str) -> Iterator[None]:
    """Turn an allocation that failed into an `InputError` that names the size.

    Parameters
    ----------
    wanted: bytes that ``what`` is estimated to want in all.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        free, more = available_bytes(device), _MORE.search(str(error))
        words = [f"it wants about {_gb(wanted)}"]
        words += [f"{more[1]} more could not be had"] if more else []
        words += [] if free is None else [f"{_gb(free)} are free now"]
        raise InputError(f"{what} ran out of memory on {device} ({', '.join(words)}): {way_out}") from error


def _gb(size: int) -> str:
    return f"{size / 10**9:.1f} GB"


def _reset_peak() -> bool:
    """Give free memory back and make the peak what is held now; False where the system has no such thing."""
    try:
        # What the C library keeps for later would be taken for free when it is used again.
        ctypes.CDLL(None).malloc_trim(0)
        _RESET.write_text(_RESET_PEAK, encoding="ascii")
        _status_bytes("VmHWM")
    except (OSError, AttributeError, KeyError, TypeError):
        return False
    return True


def _status_bytes(name: str) -> int:
    """An entry of the process's status.

    Raises
    ------
    KeyError: the system does not say.
    """
    return _entries(_STATUS)[name]


def _meminfo_bytes() -> int | None:
    try:
        return _entries(Path("/proc/meminfo")).get("MemAvailable")
    except OSError:
        return None


def _address_space_bytes() -> int | None:
    """What is left of the process's own limit, if it has one."""
    try:
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        return None if limit == resource.RLIM_INFINITY else limit - _status_bytes("VmSize")
    except (ImportError, OSError, KeyError):
        return None


def _entries(path: Path) -> dict[str, int]:
    """Lines ``name: value kB`` of a file of the Linux kernel, in bytes."""
    lines = (line.split() for line in path.read_text(encoding="ascii", errors="replace").splitlines())
    return {words[0].rstrip(":"): 1024 * int(words[1]) for words in lines if words[-1] == "kB"}


def _control_group_bytes() -> Iterator[int | None]:
    """What a container may still take."""
    for name, limit, used, cache in _CONTROL_GROUPS:
        folder = Path(name)
        try:
            counts = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
            numbers = [int((folder / file).read_text(encoding="ascii")) for file in (limit, used)]
            yield numbers[0] - numbers[1] + int(counts.get(cache, 0))
        except (OSError, ValueError):
            yield None
