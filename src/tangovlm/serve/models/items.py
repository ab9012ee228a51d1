"""What the processors of all served families do with the videos of a request."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...budget import count
from ...errors import InputError
from ...inputs import timestamps
from .. import compat
from ..options import REQUEST_KEY

with compat.internals():
    from vllm.multimodal.inputs import MultiModalFieldConfig
    from vllm.multimodal.parse import MultiModalDataParser

RETENTION = REQUEST_KEY
TIMESTAMPS = "tango_timestamps"
"""Fields beside a video's pixels: the fraction to keep, and seconds ``(T,)``, or ``(0,)`` where they are unknown."""


class Parser(MultiModalDataParser):
    """Keeps the metadata of videos; those without any get an empty mapping instead of an error."""

    def _get_video_with_metadata(self, video: Any) -> tuple[Any, dict[str, Any]]:
        frames, metadata = super()._get_video_with_metadata(video)
        return frames, metadata or {}


def fields() -> dict[str, Any]:
    """How vLLM carries `RETENTION` and `TIMESTAMPS`: one entry a video, never moved to a device."""
    return {name: MultiModalFieldConfig.batched("video", keep_on_cpu=True) for name in (RETENTION, TIMESTAMPS)}


def seconds(metadata: Mapping[str, Any], frames: int) -> Tensor:
    """Times ``(T,)`` of a video's frames as its metadata tells them; ``(0,)`` where it does not.

    Raises
    ------
    InputError: times that do not fit the frames.
    """
    (times,) = timestamps.from_metadata(metadata)
    return torch.empty(0, dtype=torch.float64) if times is None else timestamps.of_frames(times, frames)


def check_frames(frames: int) -> None:
    """Raise `InputError` for a video without any."""
    if not frames:
        raise InputError("no frame could be read of a video: it is damaged or shorter than two frames, send another")


def check_length(frames: int, tokens: int, retention: float, own: float, most: int) -> None:
    """See that a video can be in a prompt, before it is encoded.

    Parameters
    ----------
    tokens: of the video, unpruned.
    retention: of the request. own: of the server; a request that keeps less may not send longer videos for it, as the
        encoder sees all of them.
    most: tokens of a prompt.

    Raises
    ------
    InputError: more kept tokens than a prompt has room for.
    """
    bound = max(retention, own)
    kept = count(bound, tokens)
    if kept > most:
        raise InputError(
            f"a video of {frames} frames keeps {kept} tokens at retention {bound:g}, but --max-model-len is "
            f"{most}: send or sample fewer frames (--media-io-kwargs), or keep fewer tokens"
        )


def known(times: Tensor) -> Tensor | None:
    """What `seconds` gave; None where it is unknown, or a frame came twice, which methods do not take."""
    times = times.double()
    return times if times.numel() and bool((times.diff() > 0).all()) else None
