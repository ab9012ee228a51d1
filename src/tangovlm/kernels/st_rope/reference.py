"""ST-RoPE as plain loops in float64: the reference for every variant. Slow, for tests."""

import math
from collections.abc import Sequence


def rotate_reference(
    token: Sequence[float], norm: float, sections: Sequence[int], angles: Sequence[Sequence[float]]
) -> list[float]:
    """One token, divided by its norm and rotated.

    Parameters
    ----------
    sections: channels d of each block.
    angles: for each block, the angle of the channels k and k + d // 2 for every k below d // 2.
    """
    rotated = [value / norm for value in token]
    start = 0
    for size, block in zip(sections, angles, strict=True):
        half = size // 2
        for k, angle in enumerate(block, start):
            a, b = rotated[k], rotated[k + half]
            rotated[k] = a * math.cos(angle) - b * math.sin(angle)
            rotated[k + half] = b * math.cos(angle) + a * math.sin(angle)
        start += size
    return rotated
