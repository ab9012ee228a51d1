"""The videos that are pruned: their number format, whether they fit, and what a first run must not be charged for."""

from collections.abc import Callable, Sequence

import torch

from tangovlm.tokens import VideoTokens

from .memory import MB
from .prune.videos import Shape, synthetic

_WIDE_BYTES = 10**9
_SMALLEST_BESIDE = 250 * MB
_SHORT_FRAMES = 2


def default_dtype(shape: Shape, device: torch.device) -> torch.dtype:
    """bfloat16 on a GPU; on the CPU float32, or float16 for features that would take over 1 GB in float32."""
    if device.type == "cuda":
        return torch.bfloat16
    return torch.float32 if 4 * shape.tokens * shape.dim <= _WIDE_BYTES else torch.float16


def memory_words(
    shape: Shape, dtype: torch.dtype, device: torch.device, ways_out: Sequence[str], videos: int = 1
) -> tuple[int, torch.device, str, str]:
    """What `memory.check_fits` takes: beside the videos, room for half of one and at least 250 MB is asked for.

    Parameters
    ----------
    ways_out: what would make it less, in words; a narrower ``dtype`` is said here where there is one.
    """
    size = shape.tokens * shape.dim * dtype.itemsize
    wanted = videos * size + max(size // 2, _SMALLEST_BESIDE)
    what = f"pruning {shape} in {dtype_name(dtype)}" + (f", {videos} videos" if videos > 1 else "")
    ways = [*(() if dtype.itemsize == 2 else ("--dtype float16",)), *ways_out]
    return wanted, device, what, f"choose {' or '.join(ways)}"


def dtype_name(dtype: torch.dtype) -> str:
    """As rows and options name it."""
    return str(dtype).removeprefix("torch.")


def prepared(
    shape: Shape, kind: str, calls: Sequence[Callable[[VideoTokens], object]], dtype: torch.dtype, device: torch.device
) -> VideoTokens:
    """A video, once ``calls`` have had a short one of the same kind and so have loaded what they need."""
    short = synthetic(shape._replace(frames=min(_SHORT_FRAMES, shape.frames)), kind, dtype=dtype, device=device)
    for call in calls:
        call(short)
    return synthetic(shape, kind, dtype=dtype, device=device)
