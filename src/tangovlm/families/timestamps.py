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
    if isinstance(timestamps, Tensor) and timestamps.dim() in (1, 2):
        return [timestamps] if timestamps.dim() == 1 else list(timestamps)
    if isinstance(timestamps, Sequence) and len(timestamps) > 0 and not isinstance(timestamps, str):
        if all(isinstance(item, (int, float)) for item in timestamps):
            return [torch.tensor(timestamps, dtype=torch.float64)]
        if all(isinstance(item, Tensor) and item.dim() == 1 for item in timestamps):
            return list(timestamps)
    raise InputError("timestamps must be one tensor (T,) of seconds, or a list with one such tensor a video")


def of_frames(seconds: Tensor | None, frames: int) -> Tensor:
    """Times ``(T,)`` of a video's frames for its prompt; None for one a second.

    Raises
    ------
    InputError: not one finite number a frame, or times that decrease.
    """
    if seconds is None:
        return torch.arange(frames, dtype=torch.float64)
    if seconds.shape != (frames,):
        raise InputError(f"a video has {frames} frames but {seconds.numel()} timestamps: give one a frame")
    if not bool(seconds.isfinite().all()):
        raise InputError("the timestamps of a video hold NaN or infinity: give seconds")
    if bool((seconds[1:] < seconds[:-1]).any()):
        raise InputError("the timestamps of a video do not increase: sort the frames by time")
    return seconds


def assign(times: Sequence[Tensor | None], steps: Sequence[int], frames_per_step: int = 1) -> list[Tensor | None]:
    """Deal times out to videos: one for all, or one each.

    Parameters
    ----------
    times: ``(n,)`` seconds: of the steps of the token grid, or of the frames of which `frames_per_step` make a step.
    steps: T of each video's token grid.

    Returns
    -------
    ``(T,)`` seconds of each video.

    Raises
    ------
    InputError: another number of videos, or another number of frames.
    """
    if len(times) not in (1, len(steps)):
        raise InputError(f"timestamps for {len(times)} videos, but {len(steps)} videos are encoded: give one each")
    dealt = list(times) * (len(steps) // len(times))
    return [
        None if seconds is None else _of_steps(number, seconds, count, frames_per_step)
        for number, (seconds, count) in enumerate(zip(dealt, steps, strict=True))
    ]


def _of_steps(number: int, seconds: Tensor, steps: int, frames_per_step: int) -> Tensor:
    frames = seconds.numel()
    if frames == steps:
        return seconds
    # An encoder that takes several frames for a step repeats the last one where they do not come out even.
    if -(-frames // frames_per_step) != steps:
        wanted = f"{steps} frames" if frames_per_step == 1 else f"{steps} steps of {frames_per_step} frames"
        raise InputError(f"video {number} has {wanted} but {frames} timestamps: give one a frame")
    if bool((seconds[1:] < seconds[:-1]).any()):
        raise InputError(f"the timestamps of video {number} do not increase: sort the frames by time")
    return at_steps(seconds, steps)


def at_steps(seconds: Tensor, steps: int) -> Tensor:
    """Seconds ``(F,)`` of frames, linearly interpolated at equally spaced places: ``(steps,)`` float64."""
    places = torch.linspace(0, seconds.numel() - 1, steps, dtype=torch.float64, device=seconds.device)
    before = places.floor().long()
    after = (before + 1).clamp_max(seconds.numel() - 1)
    return torch.lerp(seconds.double()[before], seconds.double()[after], places - before)
