"""Density peaks as the methods beside Tango take them: on the features themselves, a point among its own neighbours."""

import math

from torch import Tensor

from ..kernels.dpc_knn import Peaks, dpc_knn
from ..signals.similarity import compute_dtype


def density_peaks(values: Tensor, centers: int, neighbors: int) -> Peaks:
    """Cluster each batch of ``values (B, n, D)``, any floating type, around ``centers`` density peaks, 1 to n.

    Distances are Euclidean in float32 (float64 for float64) and divided by sqrt(D). ``neighbors`` counts the point
    itself; see `dpc_knn` for the rest.
    """
    points = values.to(compute_dtype(values.dtype)) / math.sqrt(values.shape[-1])
    return dpc_knn(points, centers, neighbors, include_self=True)


def capped_neighbors(neighbors: int, centers: int) -> int:
    """At most as many neighbours as there are centres, as HoliTom and FlashVID have it.

    With a single centre that would leave each point its own only neighbour and all densities equal (in the releases
    the choice is random then), so all neighbours count there.
    """
    return min(neighbors, centers) if centers > 1 else neighbors
