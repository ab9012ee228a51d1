"""Fields that carry the retention and the frame times of a video from the processor to the model, and their checks."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...budget import count
from ...errors import InputError
from ...inputs import timestamps
from .. import compatibility
from ..options import REQUEST_KEY

with compatibility.importing_vllm():
    from vllm.multimodal.inputs import MultiModalFieldConfig
    from vllm.multimodal.parse import MultiModalDataParser

RETENTION = REQUEST_KEY
TIMESTAMPS = "tango_timestamps"
FEATURES = "tango_features"
"""Fields of a video: the fraction of tokens to keep, seconds ``(T,)`` of its frames, ``(0,)`` if unknown, and the
number of features of the unpruned video, newlines included, if positions depend on it."""


class VideoParser(MultiModalDataParser):
    """Keeps the metadata of videos; a video without any gets an empty mapping instead of an error."""

    def _get_video_with_metadata(self, video: Any) -> tuple[Any, dict[str, Any]]:
        frames, metadata = super()._get_video_with_metadata(video)
        return frames, metadata or {}


def field_configs() -> dict[str, Any]:
    """vLLM's descriptions of the fields: one entry per video, kept on the CPU."""
    names = (RETENTION, TIMESTAMPS, FEATURES)
    return {name: MultiModalFieldConfig.batched("video", keep_on_cpu=True) for name in names}


def retention_of(fields: Mapping[str, Any]) -> float:
    """Retention of a processed item; 1 for an image, and for a video that the request sends as embeddings."""
    return float(fields[RETENTION].data) if RETENTION in fields else 1.0


def frame_seconds(metadata: Mapping[str, Any], frames: int) -> Tensor:
    """Times ``(T,)`` of a video's frames in its metadata, float64 seconds; ``(0,)`` if it has none.

    Raises
    ------
    InputError: times that do not match the frames.
    """
    (times,) = timestamps.from_metadata(metadata)
    return torch.empty(0, dtype=torch.float64) if times is None else timestamps.of_frames(times, frames)


def check_frames(frames: int) -> None:
    """Raise `InputError` for a video without frames."""
    if not frames:
        raise InputError("no frame could be read of a video: it is damaged or shorter than two frames, send another")


def check_length(frames: int, tokens: int, retention: float, own: float, most: int) -> None:
    """Check, before a video is encoded, that its kept tokens fit into a prompt.

    Parameters
    ----------
    tokens: number of tokens of the unpruned video.
    retention: of the request.
    own: retention of the server. A lower retention of a request does not allow longer videos, because the encoder
        processes all of their frames.
    most: the largest number of tokens in a prompt.

    Raises
    ------
    InputError: more kept tokens than that.
    """
    bound = max(retention, own)
    kept = count(bound, tokens)
    if kept > most:
        raise InputError(
            f"a video of {frames} frames keeps {kept} tokens at retention {bound:g}, but --max-model-len is "
            f"{most}: send or sample fewer frames (--media-io-kwargs), or keep fewer tokens"
        )


def usable_seconds(times: Tensor) -> Tensor | None:
    """The times of `frame_seconds`; None if they are unknown or a frame is repeated, which methods do not accept."""
    times = times.double()
    return times if times.numel() and bool((times.diff() > 0).all()) else None
