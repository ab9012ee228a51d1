"""Timestamps of frames, from what a caller has: tensors, or the metadata of a video processor."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError


def from_metadata(metadata: Any) -> list[Tensor | None]:
    """Seconds of the sampled frames of each video.

    Parameters
    ----------
    metadata: one or a (nested) list of `VideoMetadata` or mappings with `fps` and `frames_indices`, as a stock
        processor returns them with ``return_metadata=True``.

    Returns
    -------
    One tensor ``(T,)`` float64 a video, or None where the metadata does not tell.

    Raises
    ------
    InputError: something else.
    """
    if isinstance(metadata, (list, tuple)):
        return [seconds for item in metadata for seconds in from_metadata(item)]
    if not isinstance(metadata, Mapping):
        raise InputError(f"video_metadata holds {type(metadata).__name__}: pass what the video processor returns")
    fields = dict(metadata)
    fps, indices = fields.get("fps"), fields.get("frames_indices")
    if not fps or indices is None:
        return [None]
    return [torch.as_tensor(list(indices), dtype=torch.float64) / float(fps)]


def given(timestamps: Any) -> list[Tensor]:
    """Seconds as the caller gave them: one tensor (or list of numbers) for all videos, or a list with one for each.

    Raises
    ------
    InputError: anything else.
    """
    if isinstance(timestamps, Tensor):
        return [timestamps] if timestamps.dim() == 1 else list(timestamps)
    if isinstance(timestamps, Sequence) and len(timestamps) > 0 and not isinstance(timestamps, str):
        if all(isinstance(item, (int, float)) for item in timestamps):
            return [torch.tensor(timestamps, dtype=torch.float64)]
        if all(isinstance(item, Tensor) and item.dim() == 1 for item in timestamps):
            return list(timestamps)
    raise InputError("timestamps must be one tensor (T,) of seconds, or a list with one such tensor a video")


def assign(times: Sequence[Tensor | None], frames: Sequence[int]) -> list[Tensor | None]:
    """Deal times out to videos: one for all, or one each.

    Parameters
    ----------
    frames: frames of each video.

    Raises
    ------
    InputError: another number of videos, or another number of frames.
    """
    if len(times) not in (1, len(frames)):
        raise InputError(f"timestamps for {len(times)} videos, but {len(frames)} videos are encoded: give one each")
    dealt = list(times) * (len(frames) // len(times))
    for number, (seconds, count) in enumerate(zip(dealt, frames, strict=True)):
        if seconds is not None and seconds.numel() != count:
            raise InputError(f"video {number} has {count} frames but {seconds.numel()} timestamps: give one a frame")
    return dealt
