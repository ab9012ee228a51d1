"""Inputs of the pruning benchmarks: default dtype, memory estimate, and a warm start."""

from collections.abc import Callable, Sequence

import torch

from tangovlm.tokens import VideoTokens

from ..memory import MB
from ..timing import dtype_name
from ..videos import Shape, synthetic

_MAX_FLOAT32_BYTES = 10**9
_MIN_WORKING_BYTES = 250 * MB
_WARM_UP_FRAMES = 2


def default_dtype(shape: Shape, device: torch.device) -> torch.dtype:
    """bfloat16 on a GPU; on the CPU float32, or float16 for features that would take over 1 GB in float32."""
    if device.type == "cuda":
        return torch.bfloat16
    return torch.float32 if 4 * shape.tokens * shape.dim <= _MAX_FLOAT32_BYTES else torch.float16


def memory_request(
    shape: Shape, dtype: torch.dtype, device: torch.device, remedies: Sequence[str], videos: int = 1
) -> tuple[int, torch.device, str, str]:
    """Arguments of `memory.check_fits`: the videos, and working memory of half a video and at least 250 MB.

    Parameters
    ----------
    remedies: options that reduce the memory, in words. A smaller dtype is added if there is one.
    """
    size = shape.tokens * shape.dim * dtype.itemsize
    required = videos * size + max(size // 2, _MIN_WORKING_BYTES)
    what = f"pruning {shape} in {dtype_name(dtype)}" + (f", {videos} videos" if videos > 1 else "")
    ways = [*(() if dtype.itemsize == 2 else ("--dtype float16",)), *remedies]
    return required, device, what, f"choose {' or '.join(ways)}"


def make_video(
    shape: Shape, kind: str, calls: Sequence[Callable[[VideoTokens], object]], dtype: torch.dtype, device: torch.device
) -> VideoTokens:
    """Make a video, after running ``calls`` on a short one of the same kind so that lazy initialization is done."""
    short = synthetic(shape._replace(frames=min(_WARM_UP_FRAMES, shape.frames)), kind, dtype=dtype, device=device)
    for call in calls:
        call(short)
    return synthetic(shape, kind, dtype=dtype, device=device)
