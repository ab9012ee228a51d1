"""Videos in the terms of vLLM: options of its loaders, and decoded clips."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import InputError
from ..video import Frames, FrameSampling
from ..video.input.sampling import MOST_FRAMES

LOADER = "tangovlm"
"""Name of `video_loader.TangoVideoLoader`; a server that does not have it refuses a request that names it."""
PART = ("start_s", "end_s", "stream", "seek")
"""Options that loaders of vLLM do not have, and silently ignore."""
_DECODER_OPTIONS = {
    *("backend", "device", "frame_recovery", "max_duration", "num_ffmpeg_threads", "seek_mode", "hw_decoders"),
    *("pool_size", "timeout_sec"),
}
"""Of the decoders of vLLM, which a server may set for all requests."""


def media_io(sampling: FrameSampling) -> dict[str, dict[str, Any]]:
    """vLLM's ``media_io_kwargs`` that sample so many frames from a video, or so many per second; empty if all is unset.

    A part of a video, one of its streams, or a way to seek needs the loader of this package, see `request_sampling`.
    Of a whole video vLLM takes at least 2 frames. The loader for LLaVA-OneVision reads ``num_frames``, and ``fps`` if
    that gives fewer. Those for Qwen-VL sample at a rate, between the two limits. At a rate both take uniform frames, as
    many as the duration times the rate.
    """
    part = {name: value for name in PART if (value := getattr(sampling, name)) is not None}
    most = sampling.max_frames or MOST_FRAMES
    if part:
        rate = {} if sampling.fps is None else {"fps": sampling.fps, "min_frames": 1, "max_frames": most}
        number = {} if sampling.frames is None else {"num_frames": sampling.frames}
        return {"video": {"video_backend": LOADER, **number, **rate, **part}}
    if sampling.fps is not None:
        return {"video": {"fps": sampling.fps, "num_frames": most, "min_frames": min(2, most), "max_frames": most}}
    if sampling.frames is None:
        return {}
    frames = max(2, sampling.frames)
    return {"video": {"num_frames": frames, "min_frames": frames, "max_frames": frames}}


def request_sampling(num_frames: Any, options: Mapping[str, Any]) -> FrameSampling:
    """The inverse of `media_io`, for the loader of this package.

    Parameters
    ----------
    num_frames: number of frames, if the options have no rate.
    options: the other ones of a request and of the server.

    Raises
    ------
    InputError: an option that does not exist, or a smallest number of frames that is no integer.
    VideoError: see `FrameSampling`.
    """
    known = ("fps", "min_frames", "max_frames", *PART)
    if unknown := sorted(set(map(str, options)) - _DECODER_OPTIONS - set(known)):
        raise InputError(
            f"media_io_kwargs has no option {unknown[0]!r} with video_backend {LOADER!r}: it takes num_frames, "
            f"{', '.join(known)}"
        )
    least = options.get("min_frames")
    if least is not None and (isinstance(least, bool) or not isinstance(least, int)):
        raise InputError(f"min_frames={least!r}: the smallest number of frames must be an integer")
    part = {name: options.get(name) for name in PART}
    if (fps := options.get("fps")) is None:
        return FrameSampling(num_frames, **part)
    return FrameSampling(fps=fps, max_frames=options.get("max_frames"), **part)


def video_item(clip: Frames) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
    """A decoded clip as an entry of ``multi_modal_data["video"]``: frames ``(T, H, W, 3)`` uint8 and their times.

    The metadata describes a video that consists of these frames only, at their mean rate. From it processors compute
    the same times as the pipeline: indices of frames are integers if the rate is constant, and fractions otherwise.
    """
    count, seconds = len(clip.timestamps_s), clip.prompt_times_s
    span_s = float(seconds[-1] - seconds[0])
    fps = (count - 1) / span_s if span_s > 0 else 1.0
    metadata = {
        "fps": fps,
        "duration": count / fps,
        "total_num_frames": count,
        "frames_indices": (seconds * fps).tolist(),
        "do_sample_frames": False,
    }
    return clip.pixels.permute(0, 2, 3, 1).contiguous().numpy(), metadata
