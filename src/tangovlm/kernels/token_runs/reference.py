"""Runs of tokens as plain loops: the reference for every variant. Slow, for tests."""

from collections.abc import Sequence


def find_runs_reference(points: Sequence[Sequence[Sequence[float]]], limit: float) -> list[list[int]]:
    """See `tangovlm.kernels.token_runs.find_runs` for the definition."""
    length = len(points[0])
    firsts: list[list[int]] = []
    for t, frame in enumerate(points):
        row = []
        for place, token in enumerate(frame):
            first = t * length + place
            if t:
                earlier = firsts[-1][place]
                lead = points[earlier // length][place]
                if sum((a - b) ** 2 for a, b in zip(lead, token, strict=True)) <= limit:
                    first = earlier
            row.append(first)
        firsts.append(row)
    return firsts
