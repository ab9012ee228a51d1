"""DPC-KNN: cluster centres by density peaks (Rodriguez & Laio 2014; Du et al. 2016), deterministic."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .. import variant
from .pytorch import Peaks, dpc_knn_torch

__all__ = ["Peaks", "dpc_knn", "dpc_knn_ragged"]


def dpc_knn(
    points: Tensor, centers: int, neighbors: int, *, include_self: bool = False, ordered: bool = False
) -> Peaks:
    """Choose ``centers`` density peaks among the points of each batch and assign every point to the nearest.

    With Euclidean distances d, the density is rho_i = exp(-mean of d_ij^2 over the ``neighbors`` nearest j), and
    delta_i is the distance to the nearest denser point, or, for the densest, the largest distance of the batch. Centres
    have the largest rho * delta. j is denser than i if rho_j > rho_i, or if they are equal and j < i; the lowest index
    wins every other tie as well. A centre is always in its own cluster, so that no cluster is empty. Densities and
    scores are compared by their logarithms, since exp(-d^2) underflows for features of large norm.

    Parameters
    ----------
    points: ``(B, n, D)`` float32 or float64, the dtype of the distances; coordinates are rounded to about 2^-26 of the
        largest norm of their batch.
    centers: m, 1 to n.
    neighbors: nearest points used for the density, at most as many as there are.
    include_self: whether a point is a neighbour of itself.
    ordered: whether to return the order of the centres.

    Returns centres ``(B, m)``, the same in order ``(B, m)`` and labels ``(B, n)``; numbers count from 0 in each batch.
    """
    batch, n, dim = points.shape
    flat = points.reshape(-1, dim)
    peaks = dpc_knn_ragged(
        lambda numbers: flat[numbers],
        [n] * batch,
        [centers] * batch,
        neighbors,
        include_self=include_self,
        ordered=ordered,
        device=points.device,
    )
    first = torch.arange(batch, device=points.device)[:, None]
    return Peaks(
        peaks.centers.view(batch, centers) - first * n,
        peaks.order.view(batch, centers) - first * n,
        peaks.labels.view(batch, n) - first * centers,
    )


def dpc_knn_ragged(
    points_at: Callable[[Tensor], Tensor],
    sizes: Sequence[int],
    centers: Sequence[int],
    neighbors: int,
    *,
    device: torch.device,
    include_self: bool = False,
    ordered: bool = False,
) -> Peaks:
    """Cluster pools of different sizes, each separately; see `dpc_knn`.

    Parameters
    ----------
    points_at: returns the points ``(k, D)``, float32 or float64, of int64 numbers ``(k,)`` on the device. The points of
        pool g have ``sizes[g]`` consecutive numbers, starting with the first pool. It is called for parts of the
        points, more than once for the same point if that saves memory.
    sizes, centers: points and centres of each pool; there is at least one pool.

    Returns centres ``(C,)`` and order ``(C,)`` as numbers of points, pool after pool, and labels ``(M,)`` as positions
    in the centres.
    """
    if variant(device) == "triton":
        from .triton import dpc_knn_triton, supports

        if supports(points_at(torch.zeros(0, dtype=torch.int64, device=device)), neighbors):
            return dpc_knn_triton(points_at, sizes, centers, neighbors, include_self, device)
    return dpc_knn_torch(points_at, sizes, centers, neighbors, include_self, ordered, device)
