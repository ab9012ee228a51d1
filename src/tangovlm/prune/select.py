"""Salient token selection (STS): the tokens looked at most, spread over what they show."""

import torch
from torch import Tensor

from ..budget import candidates
from ..kernels.dpc_knn import dpc_knn


def top_salient(saliency: Tensor, keep: int) -> Tensor:
    """Indices ``(B, keep)`` of the highest of ``saliency (B, n)``, in descending order; the lowest of equals first."""
    return saliency.sort(dim=-1, descending=True, stable=True).indices[:, :keep]


def select_salient(points: Tensor, saliency: Tensor, keep: int, *, expansion: float, neighbors: int) -> Tensor:
    """Choose ``keep`` salient and diverse tokens of each row (Tango paper, arXiv 2604.09547, section STS).

    The ``expansion * keep`` most salient tokens are clustered into ``keep`` groups by DPC-KNN, and the most salient
    token of each group is chosen.

    Parameters
    ----------
    points: ``(B, n, D)`` float32 or float64; where distances are taken.
    saliency: ``(B, n)``.
    keep: at most n.

    Returns indices ``(B, keep)`` int64, in no particular order.
    """
    batch, n = saliency.shape
    shortlist = top_salient(saliency, candidates(keep, expansion, n))
    if shortlist.shape[1] == keep:
        return shortlist
    gathered = points.gather(1, shortlist[..., None].expand(-1, -1, points.shape[2]))
    labels = dpc_knn(gathered, keep, neighbors).labels
    # The shortlist descends, so the first member of a cluster is its most salient one.
    place = torch.arange(labels.shape[1], device=labels.device).expand_as(labels)
    first = torch.full((batch, keep), labels.shape[1], device=labels.device).scatter_reduce_(1, labels, place, "amin")
    return shortlist.gather(1, first)
