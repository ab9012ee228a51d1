"""Merging clusters as plain loops in float64: the reference for every variant. Slow, for tests."""

from collections.abc import Sequence


def blend_reference(
    values: Sequence[Sequence[float]],
    index: Sequence[int],
    centers: Sequence[int],
    labels: Sequence[int],
    anchor_weight: float,
) -> list[list[float]]:
    """See `tangovlm.kernels.blend.blend_ragged` for the definition."""
    merged = []
    for cluster, center in enumerate(centers):
        members = [values[i] for i, label in zip(index, labels, strict=True) if label == cluster]
        means = [sum(channel) / len(members) for channel in zip(*members, strict=True)]
        anchor = values[index[center]]
        merged.append([anchor_weight * a + (1 - anchor_weight) * m for a, m in zip(anchor, means, strict=True)])
    return merged
