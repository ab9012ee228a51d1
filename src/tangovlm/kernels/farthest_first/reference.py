"""Greedy choice of points as plain loops, one by one: the reference for every variant. Slow, for tests."""

from collections.abc import Sequence
from math import inf


def choose_farthest_reference(
    points: Sequence[Sequence[float]],
    weights: Sequence[float],
    bounds: Sequence[float],
    keep: int,
    floor: float = 0.0,
) -> tuple[list[int], list[int], list[float]]:
    """See `tangovlm.kernels.farthest_first.choose_farthest`; (order, nearest, distance)."""
    order: list[int] = []
    nearest, distance = [0] * len(points), [inf] * len(points)
    while len(order) < keep:
        scores = {i: weights[i] * min(bounds[i], distance[i]) for i in range(len(points)) if i not in order}
        best = max(scores, key=lambda i: (scores[i], -i))
        if order and scores[best] < floor:
            break
        for i, point in enumerate(points):
            apart = sum((a - b) ** 2 for a, b in zip(point, points[best], strict=True))
            if apart < distance[i]:
                nearest[i], distance[i] = len(order), apart
        order.append(best)
    return order, nearest, distance
