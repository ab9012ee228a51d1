"""The frames of the benchmark's clips."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tangovlm.tiny.synthetic.render import render
from tangovlm.tiny.synthetic.world import SECONDS_A_MOMENT, Clip


@dataclass(frozen=True, eq=False)
class RenderedClip:
    """The frames of a clip.

    Parameters
    ----------
    pixels: uint8 (T, 3, 112, 112).
    seconds: timestamps, float64 (T,).
    moments: the same timestamps in moments.
    owners: int8 (T, 8, 8), see `tiny.synthetic.render.render`.
    """

    clip: Clip
    pixels: Tensor
    seconds: Tensor
    moments: list[float]
    owners: NDArray[np.int8]


def render_clip(clip: Clip, frames: int) -> RenderedClip:
    """The frames that decoding a video file of the clip would return, without the file."""
    moments = clip.times(frames)
    images, owners = render(clip, moments)
    seconds = torch.tensor(moments, dtype=torch.float64) * SECONDS_A_MOMENT
    return RenderedClip(clip, torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), seconds, moments, owners)
