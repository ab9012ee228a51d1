"""DPC-KNN: cluster centres by density peaks (Rodriguez & Laio 2014; Du et al. 2016), deterministic."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..dispatch import variant
from .peaks import Peaks
from .pytorch import dpc_knn_torch

__all__ = ["Peaks", "dpc_knn", "dpc_knn_ragged"]


def dpc_knn(
    points: Tensor, centers: int, neighbors: int, *, include_self: bool = False, ordered: bool = False
) -> Peaks:
    """Choose ``centers`` density peaks among the points of each batch and assign every point to the nearest.

    With Euclidean distances d: density rho_i = exp(-mean of d_ij^2 over the ``neighbors`` nearest j), and delta_i the
    distance to the nearest denser point, or the largest distance of the batch for the densest. Centres have the
    largest rho * delta. j is denser than i if rho_j > rho_i, or if they are equal and j < i; every other tie goes to
    the lowest index as well, and a centre is always in its own cluster, so that no cluster is empty. Densities and
    scores are compared by their logarithms: on features of large norm exp(-d^2) is zero for most points.

    Parameters
    ----------
    points: ``(B, n, D)`` float32 or float64, the type of the distances; coordinates are rounded to about 2^-26 of the
        largest norm of their batch.
    centers: m, 1 to n.
    neighbors: points that the density looks at, at most as many as there are.
    include_self: whether a point is a neighbour of itself.
    ordered: whether the order of the centres is wanted.

    Returns centres ``(B, m)``, the same in order ``(B, m)`` and labels ``(B, n)``; numbers count from 0 in each batch.
    """
    batch, n, dim = points.shape
    flat = points.reshape(-1, dim)
    found = dpc_knn_ragged(
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
        found.centers.view(batch, centers) - first * n,
        found.order.view(batch, centers) - first * n,
        found.labels.view(batch, n) - first * centers,
    )


def dpc_knn_ragged(
    rows: Callable[[Tensor], Tensor],
    sizes: Sequence[int],
    centers: Sequence[int],
    neighbors: int,
    *,
    device: torch.device,
    include_self: bool = False,
    ordered: bool = False,
) -> Peaks:
    """Cluster pools of different sizes, each by itself; see `dpc_knn`.

    Parameters
    ----------
    rows: gives the points ``(k, D)``, float32 or float64, of int64 numbers ``(k,)`` on the device. The points of pool
        g are ``sizes[g]`` consecutive numbers, those of the first pool come first. They are asked for in parts, where
        memory is dear more than once.
    sizes, centers: points and centres of each pool; there is at least one pool.

    Returns centres ``(C,)`` and order ``(C,)`` as numbers of points, pool after pool, and labels ``(M,)`` as positions
    in the centres.
    """
    if variant(device) == "triton":
        from .triton import dpc_knn_triton, takes

        if takes(rows(torch.zeros(0, dtype=torch.int64, device=device)), neighbors):
            return dpc_knn_triton(rows, sizes, centers, neighbors, include_self, device)
    return dpc_knn_torch(rows, sizes, centers, neighbors, include_self, ordered, device)
