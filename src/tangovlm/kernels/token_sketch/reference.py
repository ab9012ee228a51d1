"""Sketches of tokens as plain loops: the reference for every variant. Slow, for tests."""

from collections.abc import Sequence
from math import sqrt


def sign_reference(number: int) -> int:
    """The sign of a channel: a bit of an integer hash of its number."""
    mixed = number
    for _ in range(2):
        mixed = ((mixed >> 16) ^ mixed) * 0x45D9F3B % 2**32
    return 1 if ((mixed >> 16) ^ mixed) >> 8 & 1 else -1


def sketch_reference(features: Sequence[Sequence[float]], channels: int, scale: int) -> list[list[float]]:
    """See `tangovlm.kernels.token_sketch.sketch_tokens`; not rounded to integers."""
    sketches = []
    for token in features:
        sums = [0.0] * min(len(token), channels)
        for number, value in enumerate(token):
            sums[number % channels] += value * (sign_reference(number) if len(token) > channels else 1)
        norm = sqrt(sum(value * value for value in sums))
        sketches.append([scale * value / norm if norm else 0.0 for value in sums])
    return sketches
