"""Runs of tokens in PyTorch, frame by frame."""

import torch
from torch import Tensor


def find_runs_torch(points: Tensor, limit: Tensor) -> Tensor:
    """See `tangovlm.kernels.token_runs.find_runs`."""
    frames, length, _ = points.shape
    first = torch.arange(frames * length, device=points.device).view(frames, length)
    lead = points[0].clone()
    for t in range(1, frames):
        joins = (lead - points[t]).square_().sum(dim=-1) <= limit
        first[t] = torch.where(joins, first[t - 1], first[t])
        lead = torch.where(joins[:, None], lead, points[t])
    return first
