"""Chunks of the frames of a call: how many frames are encoded at a time, and how the outputs are joined."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from ...machine.memory import memory_guard

# Working memory of a chunk. On CUDA it is a share of the device's memory, which is enough to keep it busy. The share is
# of the total memory, not of the free memory: the size of a matrix product may affect the last bit of its result, and
# results must not depend on what else is running.
_CUDA_SHARE = 16
# One frame keeps a CPU busy; more only need memory.
_CPU_BYTES = 2**29
_OPTIONAL = ("hidden_states", "attentions")


def frames_at_once(frame_bytes: int, device: torch.device) -> int:
    """Number of frames of a chunk, at least 1, by the memory of the device.

    Parameters
    ----------
    frame_bytes: working memory of one frame.
    """
    total = _CPU_BYTES
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory // _CUDA_SHARE
    return max(1, total // frame_bytes)


def check_chunk_frames(chunk_frames: object) -> None:
    """Raise `InputError` unless it is None or a whole number of at least 1."""
    whole = isinstance(chunk_frames, int) and not isinstance(chunk_frames, bool)
    if chunk_frames is not None and not (whole and chunk_frames >= 1):  # type: ignore[operator] # whole: an int
        raise InputError(f"chunk_frames is {chunk_frames!r}: give a whole number of at least 1, or None")


def bounds(frames: int, at_most: int) -> list[tuple[int, int]]:
    """(start, stop) of the fewest possible chunks, with sizes that differ by at most one, the larger ones first.

    >>> bounds(7, 3)
    [(0, 3), (3, 5), (5, 7)]
    """
    chunks = -(-frames // at_most)
    size, larger = divmod(frames, chunks)
    cuts = [number * size + min(number, larger) for number in range(chunks + 1)]
    return list(pairwise(cuts))


def fields(output: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the output of a chunk to keep: hidden states and attentions only if the caller asked for them.

    Stock code collects hidden states for itself. Chunks exist in order not to keep those of all frames.
    """
    return {name: value for name, value in output.items() if name not in _OPTIONAL or options.get(f"output_{name}")}


def join(parts: Sequence[Any]) -> Any:
    """Concatenate tensors of all chunks along their first dimension, also within tuples; None stays None."""
    if isinstance(parts[0], Tensor):
        return torch.cat(list(parts))
    return None if parts[0] is None else tuple(join(entries) for entries in zip(*parts, strict=True))


def collect(
    make: Callable[[int, int], Any], bounds: Sequence[tuple[int, int]], options: Mapping[str, Any]
) -> tuple[type[Any], dict[str, Any], list[Any]]:
    """Compute all chunks: the class of their outputs, the joined `fields`, and `pooler_output` of each chunk.

    Parameters
    ----------
    make: returns the output for frames from start to stop.
    bounds: of the chunks.
    options: of the call.
    """
    parts, pooled = [], []
    for start, stop in bounds:
        output = make(start, stop)
        part, kind = fields(output, options), type(output)
        part.pop("pooler_output", None)
        parts.append(part)
        pooled.append(output.pooler_output)
        # Free the other fields before the next chunk allocates its own.
        del output
    return kind, {name: join([part[name] for part in parts]) for name in parts[0]}, pooled


def guarded(frames: int, frame_bytes: int, device: torch.device) -> AbstractContextManager[None]:
    """A guard around encoding this number of frames at once, see `memory_guard`."""
    wanted = f"encoding {frames} frames at once takes about {frames * frame_bytes / 1e9:.1f} GB beside the model"
    fewer = max(1, frames // 4)
    way_out = f"give chunk_frames={fewer} (or --chunk-frames {fewer})"
    return memory_guard(device, wanted, way_out if frames > 1 else "free memory, or use a smaller model")
