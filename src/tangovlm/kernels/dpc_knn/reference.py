"""DPC-KNN as plain loops in float64: the reference for every variant. Slow, for tests."""

import math
from collections.abc import Sequence

Point = Sequence[float]


def dpc_knn_reference(
    points: Sequence[Point], centers: int, neighbors: int, *, include_self: bool = False
) -> tuple[list[int], list[int], list[int]]:
    """Cluster n points; returns (centres ascending, centres by descending score, label of every point).

    See `tangovlm.kernels.dpc_knn.dpc_knn` for the definition.
    """
    n = len(points)
    squared = [[sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) for b in points] for a in points]
    log_density = []
    for i in range(n):
        others = sorted(squared[i][j] for j in range(n) if include_self or j != i)[:neighbors]
        log_density.append(-sum(others) / max(len(others), 1))
    score = []
    for i in range(n):
        denser = [j for j in range(n) if (log_density[j], -j) > (log_density[i], -i)]
        separation = min((squared[i][j] for j in denser), default=max(map(max, squared)))
        score.append(log_density[i] + (0.5 * math.log(separation) if separation else -math.inf))
    order = sorted(range(n), key=lambda i: (-score[i], i))[:centers]
    chosen = sorted(order)
    labels = [
        chosen.index(i) if i in chosen else min(range(centers), key=lambda c: (squared[i][chosen[c]], c))
        for i in range(n)
    ]
    return chosen, order, labels
