"""Milonga as plain loops, one token and one choice at a time; shares nothing with the library."""

from collections.abc import Sequence
from typing import NamedTuple

Vector = Sequence[float]

SCALE, STEPS = 2000, 1024


class Kept(NamedTuple):
    indices: list[int]
    features: list[list[float]]
    sources: list[int]


def points_of(features: Sequence[Vector], channels: int) -> list[list[int]]:
    """Sketches of the tokens."""
    points = []
    for token in features:
        sums = [0.0] * min(len(token), channels)
        for k, value in enumerate(token):
            sums[k % channels] += _sign(k) * value if len(token) > channels else value
        points.append(_on_grid(sums))
    return points


def milonga(
    features: Sequence[Vector],
    points: Sequence[Sequence[int]],
    saliency: Sequence[float] | None,
    shape: tuple[int, int],
    keep: int,
    *,
    stay: float,
    emphasis: float,
    alike: float,
    anchor_weight: float,
    floor: float = 0.0,
) -> Kept:
    """Reduce a video.

    Parameters
    ----------
    features: of the N tokens in raster order. points: their sketches. saliency: zero at sinks.
    shape: frames, tokens of a frame.
    """
    frames, length = shape
    tokens = range(frames * length)
    channels = range(len(points[0]))
    mean = [round(sum(points[i][k] for i in tokens) / len(tokens)) for k in channels]
    spread = 2.0 * (sum(x * x for p in points for x in p) / len(tokens) - sum(x * x for x in mean))
    weights = [STEPS] * len(tokens)
    if saliency is not None and emphasis:
        average = sum(saliency) / len(tokens)
        relative = [s / average if average else 1.0 for s in saliency]
        weights = [max(1, round(STEPS * r**emphasis)) for r in relative]

    run = list(tokens)
    for i in range(length, len(tokens)):
        first = run[i - length]
        if _apart(points[i], points[first]) <= _float32(stay * spread):
            run[i] = first
    missing = keep - len(set(run))
    if missing > 0:
        inside = [i for i in tokens if run[i] != i]
        inside.sort(key=lambda i: (-_float32(weights[i] * _apart(points[i], points[run[i]])), i))
        for i in inside[:missing]:
            run[i] = i
    firsts = sorted(set(run))
    members = {first: [i for i in tokens if run[i] == first] for first in firsts}
    means = {r: [round(sum(points[i][k] for i in of) / len(of)) for k in channels] for r, of in members.items()}
    heavy = {r: _float32(sum(weights[i] for i in of) / len(of) / STEPS) for r, of in members.items()}

    center = _on_grid([float(x) for x in mean])
    nearest: dict[int, int] = {}
    distance = {r: float("inf") for r in firsts}
    chosen: list[int] = []
    while len(chosen) < min(keep, len(firsts)):
        scores = {r: _float32(heavy[r] * min(_apart(means[r], center), distance[r])) for r in firsts if r not in chosen}
        best = max(scores, key=lambda r: (scores[r], -r))
        if chosen and floor and scores[best] < max(_float32(floor * spread), 1e-30):
            break
        chosen.append(best)
        for r in firsts:
            apart = _apart(means[r], means[best])
            if apart < distance[r]:
                nearest[r], distance[r] = best, apart
    into = {r: nearest[r] if distance[r] <= _float32(alike * spread) else -1 for r in firsts}
    into |= {r: r for r in chosen}

    indices = sorted(chosen)
    values = []
    for r in indices:
        own = _mean([features[i] for i in members[r]])
        merged = _mean([features[i] for i in tokens if into[run[i]] == r])
        values.append([anchor_weight * a + (1 - anchor_weight) * m for a, m in zip(own, merged, strict=True)])
    return Kept(indices, values, [indices.index(into[run[i]]) if into[run[i]] >= 0 else -1 for i in tokens])


def _sign(number: int) -> int:
    mixed = number
    for _ in range(2):
        mixed = ((mixed ^ mixed >> 16) * 73244475) & (2**32 - 1)
    return 2 * ((mixed ^ mixed >> 16) >> 8 & 1) - 1


def _on_grid(vector: list[float]) -> list[int]:
    largest = max(map(abs, vector))
    if not largest:
        return [0] * len(vector)
    fine = [round(x / largest * 2**20) for x in vector]
    norm = sum(x * x for x in fine) ** 0.5
    return [round(SCALE * x / norm) for x in fine]


def _apart(a: Sequence[int], b: Sequence[int]) -> int:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def _mean(rows: Sequence[Vector]) -> list[float]:
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def _float32(value: float) -> float:
    import struct

    return float(struct.unpack("f", struct.pack("f", value))[0])
