"""Timestamps of frames, from tensors of the caller or the metadata of a video processor."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import InputError


class Sampling(NamedTuple):
    """How the frames of a video were sampled.

    Parameters
    ----------
    seconds: ``(T,)`` float64 times of the frames.
    duration_s: length of the whole video.
    sampled_fps: T over the length of the whole video, computed as in stock processors.
    """

    seconds: Tensor | None = None
    duration_s: float | None = None
    sampled_fps: float | None = None


def samplings(metadata: Any) -> list[Sampling]:
    """Read the metadata of videos.

    Parameters
    ----------
    metadata: one or a (nested) list of `VideoMetadata` or mappings with `fps` and `frames_indices`, as a stock
        processor returns them with ``return_metadata=True``; they may have `duration` and `total_num_frames`.

    Raises
    ------
    InputError: anything else.
    """
    if isinstance(metadata, (list, tuple)):
        return [sampling for item in metadata for sampling in samplings(item)]
    if not isinstance(metadata, Mapping):
        raise InputError(f"video_metadata has {type(metadata).__name__}: pass what the video processor returns")
    fields = dict(metadata)
    fps, indices = fields.get("fps"), fields.get("frames_indices")
    if not fps or indices is None:
        return [Sampling()]
    seconds = torch.as_tensor(list(indices), dtype=torch.float64) / float(fps)
    duration, total = fields.get("duration"), fields.get("total_num_frames")
    sampled_fps = seconds.numel() / float(total) * float(fps) if total else None
    return [Sampling(seconds, None if duration is None else float(duration), sampled_fps)]


def from_metadata(metadata: Any) -> list[Tensor | None]:
    """Seconds ``(T,)`` of the sampled frames of each video, None if the metadata has none; see `samplings`."""
    return [sampling.seconds for sampling in samplings(metadata)]


def given(timestamps: Any) -> list[Tensor]:
    """Seconds from the caller: one tensor (or list of numbers) for all videos, or a list with one for each.

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
    """Times ``(T,)`` of a video's frames for its prompt; by default one frame per second.

    Raises
    ------
    InputError: not one finite number per frame, or times that decrease.
    """
    if seconds is None:
        return torch.arange(frames, dtype=torch.float64)
    if seconds.shape != (frames,):
        raise InputError(f"a video has {frames} frames but {seconds.numel()} timestamps: give one a frame")
    if not bool(seconds.isfinite().all()):
        raise InputError("the timestamps of a video have NaN or infinity: give seconds")
    if bool((seconds[1:] < seconds[:-1]).any()):
        raise InputError("the timestamps of a video do not increase: sort the frames by time")
    return seconds


def assign(
    times: Sequence[Tensor | None], steps: Sequence[int], frames_per_step: int = 1, middle: bool = False
) -> list[Tensor | None]:
    """Assign times to videos: one for all, or one for each.

    Parameters
    ----------
    times: ``(n,)`` seconds: of the steps of the token grid, or of the frames, of which `frames_per_step` form a step.
    steps: T of each video's token grid.
    middle: whether the time of a step is the middle of its frames' times, not that of its first frame; see
        `Family.middle_of_steps`.

    Returns
    -------
    ``(T,)`` seconds of each video.

    Raises
    ------
    InputError: another number of videos, or another number of frames.

    >>> assign([torch.tensor([0.0, 1.0, 2.0, 3.0])], [2], frames_per_step=2)[0].tolist()
    [0.0, 2.0]
    >>> assign([torch.tensor([0.0, 1.0, 2.0, 3.0])], [2], frames_per_step=2, middle=True)[0].tolist()
    [0.5, 2.5]
    """
    if len(times) not in (1, len(steps)):
        raise InputError(f"timestamps for {len(times)} videos, but {len(steps)} videos are encoded: give one each")
    assigned = list(times) * (len(steps) // len(times))
    return [
        None if seconds is None else _of_steps(number, seconds, count, frames_per_step, middle)
        for number, (seconds, count) in enumerate(zip(assigned, steps, strict=True))
    ]


def _of_steps(number: int, seconds: Tensor, steps: int, frames_per_step: int, middle: bool) -> Tensor:
    frames = seconds.numel()
    if frames == steps:
        return seconds
    # An encoder with several frames per step repeats the last frame to fill the last step.
    if -(-frames // frames_per_step) != steps:
        expected = f"{steps} frames" if frames_per_step == 1 else f"{steps} steps of {frames_per_step} frames"
        raise InputError(f"video {number} has {expected} but {frames} timestamps: give one a frame")
    if bool((seconds[1:] < seconds[:-1]).any()):
        raise InputError(f"the timestamps of video {number} do not increase: sort the frames by time")
    filled = torch.cat([seconds, seconds[-1:].expand(steps * frames_per_step - frames)]).double()
    return step_times(filled, steps) if middle else filled[::frames_per_step]


def step_times(seconds: Tensor, steps: int) -> Tensor:
    """Middle of the first and the last frame of each step, in seconds.

    Parameters
    ----------
    seconds: ``(T,)`` times of frames, of which equally many form a step; the last one is repeated to fill it.

    Returns
    -------
    ``(steps,)`` float64.
    """
    missing = -seconds.numel() % steps
    frames = torch.cat([seconds.double(), seconds[-1:].double().expand(missing)]).view(steps, -1)
    return (frames[:, 0] + frames[:, -1]) / 2
