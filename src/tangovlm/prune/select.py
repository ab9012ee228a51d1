"""Salient token selection (STS): the tokens looked at most, spread over what they show."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..kernels.dpc_knn import dpc_knn_ragged


def top_salient(saliency: Tensor, keep: int) -> Tensor:
    """Indices ``(B, keep)`` of the highest of ``saliency (B, n)``, in descending order; the lowest of equals first."""
    return saliency.sort(dim=-1, descending=True, stable=True).indices[:, :keep]


def select_diverse(
    points: Callable[[Tensor], Tensor],
    shortlist: Tensor,
    sizes: Sequence[int],
    keep: Sequence[int],
    neighbors: int,
) -> Tensor:
    """Choose diverse tokens of the salient ones of each row (Tango paper, arXiv 2604.09547, section STS).

    The candidates of a row are clustered into as many groups as it keeps by DPC-KNN, and the most salient token of
    each group is chosen.

    Parameters
    ----------
    points: gives ``(k, D)``, where distances are taken, of tokens ``(k,)``.
    shortlist: ``(M,)`` int64, the candidates of all rows, row after row, by descending saliency.
    sizes, keep: candidates of each row, and how many of them are chosen.

    Returns the chosen ones, ``(sum of keep,)`` int64, row after row in no particular order.
    """
    device = shortlist.device
    labels = dpc_knn_ragged(lambda numbers: points(shortlist[numbers]), sizes, keep, neighbors, device=device).labels
    # The shortlist descends, so the first member of a cluster is its most salient one.
    place = torch.arange(len(labels), device=device)
    first = torch.full((sum(keep),), len(labels), device=device).scatter_reduce_(0, labels, place, "amin")
    return shortlist[first]
