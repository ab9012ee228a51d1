"""Runs of tokens for CUDA in Triton: a single launch for the whole video, which reads each token once."""

import torch
import triton
import triton.language as tl
from torch import Tensor


def find_runs_triton(points: Tensor, limit: Tensor) -> Tensor:
    """See `tangovlm.kernels.token_runs.find_runs`."""
    frames, length, channels = points.shape
    first = torch.empty(frames, length, dtype=torch.int64, device=points.device)
    with torch.cuda.device_of(points):
        _scan[(length,)](
            points.contiguous(), limit, first, frames, length, channels, CHANNELS=triton.next_power_of_2(channels)
        )
    return first


@triton.jit
def _scan(points, limit, first, frames, length, channels, CHANNELS: tl.constexpr):
    """One position of the grid. Sums of squares are exact, in whichever order they are added."""
    place = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, CHANNELS)
    inside = channel < channels
    most = tl.load(limit)
    lead = tl.load(points + place * channels + channel, mask=inside, other=0.0)
    current = place
    tl.store(first + place, current)
    for t in range(1, frames):
        index = place + t * length.to(tl.int64)
        token = tl.load(points + index * channels + channel, mask=inside, other=0.0)
        joins = tl.sum((lead - token) * (lead - token), 0) <= most
        current = tl.where(joins, current, index)
        lead = tl.where(joins, lead, token)
        tl.store(first + index, current)
