"""Tango once more, slowly and independently: loops over Python numbers, written from the description of the method.

Nothing of the library is used. Everything is float64, ties go to the lowest index, and the budget is exact.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass
class Result:
    indices: list[int]
    features: list[Array]
    sources: list[int]
    segments: list[int]


@dataclass
class Row:
    """Members are lists of the tokens that each stands for; the first of them is its place."""

    segment: int
    static: bool
    members: list[list[int]]


def reference_tango(
    features: Array,
    saliency: Array,
    times: Array,
    *,
    retention: float = 0.1,
    context_ratio: float = 0.4,
    expansion: float = 1.5,
    neighbors: int = 7,
    anchor_weight: float = 0.6,
    segmentation: str = "holitom",
    segment_threshold: float | None = None,
    static_threshold: float | None = None,
    st_rope: bool = True,
    timestamps: bool = True,
    diversity: bool = True,
    merge: bool = True,
    sinks: tuple[int, ...] = (),
) -> Result:
    frames, height, width, dim = features.shape
    length, total = height * width, frames * height * width
    tokens = features.reshape(total, dim)
    gaze = saliency.astype(np.float64).reshape(total).copy()
    for t in range(frames):
        for sink in sinks:
            gaze[t * length + sink] = 0.0
    unit = np.stack([unit_vector(x) for x in tokens])

    tau = segment_threshold if segment_threshold is not None else (0.65 if retention <= 0.1 else 0.8)
    tau_static = static_threshold if static_threshold is not None else tau
    cosine = [
        [float(unit[t * length + p] @ unit[(t + 1) * length + p]) for p in range(length)] for t in range(frames - 1)
    ]
    if segmentation == "holitom":
        segments = gain_segments(cosine, frames, length, tau)
    else:
        segments = cut_segments([features[t].reshape(length, dim).mean(0) for t in range(frames)], tau)

    points = unit
    if st_rope:
        seconds = times if timestamps else np.arange(frames, dtype=np.float64)
        points = np.stack(
            [rotate(unit[i], float(seconds[i // length]), i % length // width, i % width) for i in range(total)]
        )

    rows = make_rows(segments, cosine, length, tau_static)
    budget = max(1, math.floor(Fraction(repr(retention)) * total + Fraction(1, 2)))
    kept, salient = row_counts(rows, segments, length, budget, context_ratio)

    value: dict[int, Array] = {}
    home: dict[int, int] = {}
    entry_value: dict[int, Array] = {}
    reopened: list[int] = []
    represented = sum(len(row.members) for row in rows)
    if budget > represented:
        hidden = [i for row in rows for member in row.members for i in member[1:]]
        reopened = sorted(hidden, key=lambda i: (-gaze[i], i))[: budget - represented]
    for row in rows:
        for member in row.members:
            entry_value[member[0]] = np.mean([tokens[i] for i in member if i not in reopened], axis=0)

    left: dict[tuple[int, bool], list[int]] = {}
    anchors: dict[tuple[int, bool], int] = {}
    for row, k, s in zip(rows, kept, salient, strict=True):
        entries = [member[0] for member in row.members]
        look = [float(np.mean([gaze[i] for i in member])) for member in row.members]
        chosen = choose(entries, look, points, s, expansion, neighbors, diversity)
        for entry in chosen:
            home[entry] = entry
            value[entry] = entry_value[entry]
        pool = (row.segment, row.static)
        left.setdefault(pool, []).extend(e for e in entries if e not in chosen)
        anchors[pool] = anchors.get(pool, 0) + k - s
    for pool, entries in left.items():
        m = anchors[pool]
        if m == 0:
            continue
        if m == len(entries):
            clusters = {e: [e] for e in entries}
        else:
            centers, labels = density_peaks([points[e] for e in entries], m, neighbors)
            clusters = {entries[c]: [] for c in centers}
            for entry, label in zip(entries, labels, strict=True):
                clusters[entries[centers[label]]].append(entry)
        for anchor, members in clusters.items():
            if not merge:
                members = [anchor]
            mean = np.mean([entry_value[e] for e in members], axis=0)
            value[anchor] = anchor_weight * entry_value[anchor] + (1 - anchor_weight) * mean
            for e in members:
                home[e] = anchor
    for i in reopened:
        value[i] = tokens[i]

    indices = sorted(value)
    slot = {index: k for k, index in enumerate(indices)}
    sources = [-1] * total
    for row in rows:
        for member in row.members:
            for i in member:
                if member[0] in home:
                    sources[i] = slot[home[member[0]]]
    for i in reopened:
        sources[i] = slot[i]
    return Result(indices, [value[i] for i in indices], sources, segments)


def unit_vector(x: Array) -> Array:
    return x / max(math.sqrt(float(x @ x)), 1e-12)


def rotate(z: Array, time: float, row: int, column: int) -> Array:
    dim = len(z)
    space = dim // 3
    space -= space % 2
    out, start = z.copy(), 0
    for size, position, base in ((dim - 2 * space, time, 1e4), (space, row, 1e3), (space, column, 1e3)):
        even = size - size % 2
        for k in range(even // 2):
            angle = position * base ** (-2 * k / even)
            a, b = z[start + k], z[start + k + even // 2]
            out[start + k] = a * math.cos(angle) - b * math.sin(angle)
            out[start + k + even // 2] = b * math.cos(angle) + a * math.sin(angle)
        start += size
    return out


def gain_segments(cosine: list[list[float]], frames: int, length: int, tau: float) -> list[int]:
    def gain(a: int, b: int) -> int:
        return (b - a) * sum(all(cosine[t][p] > tau for t in range(a, b)) for p in range(length))

    best: list[tuple[int, list[int]]] = [(0, [])]
    for i in range(1, frames + 1):
        score, sizes = best[i - 1][0], [*best[i - 1][1], 1]
        for w in range(2, i + 1):
            other = best[i - w][0] + gain(i - w, i - 1)
            if other > score:
                score, sizes = other, [*best[i - w][1], w]
        best.append((score, sizes))
    return best[frames][1]


def cut_segments(means: list[Array], tau: float) -> list[int]:
    alike = [float(unit_vector(a) @ unit_vector(b)) for a, b in pairwise(means)]
    lowest = sorted(range(len(alike)), key=lambda t: (alike[t], t))[:7]
    sizes = [1]
    for t, similarity in enumerate(alike):
        if similarity < tau or t in lowest:
            sizes.append(1)
        else:
            sizes[-1] += 1
    return sizes


def make_rows(segments: list[int], cosine: list[list[float]], length: int, tau: float) -> list[Row]:
    rows, first = [], 0
    for g, n in enumerate(segments):
        pairs = range(first, first + n - 1)
        static = [p for p in range(length) if n > 1 and all(cosine[t][p] > tau for t in pairs)]
        if static:
            rows.append(Row(g, True, [[t * length + p for t in range(first, first + n)] for p in static]))
        dynamic = [p for p in range(length) if p not in static]
        if dynamic:
            rows += [Row(g, False, [[t * length + p] for p in dynamic]) for t in range(first, first + n)]
        first += n
    return rows


def row_counts(
    rows: list[Row], segments: list[int], length: int, budget: int, context_ratio: float
) -> tuple[list[int], list[int]]:
    held = [sum(len(row.members) for row in rows if row.segment == g) for g in range(len(segments))]
    target = Fraction(min(budget, sum(held)))
    # The level at which min(held, level * tokens) sums to the target lies between two points where a segment fills up.
    corners = sorted({Fraction(0), *(Fraction(m, n * length) for m, n in zip(held, segments, strict=True))})

    def filled(level: Fraction) -> Fraction:
        return sum((min(Fraction(m), level * n * length) for m, n in zip(held, segments, strict=True)), Fraction(0))

    level = corners[-1]
    for low, high in pairwise(corners):
        if filled(low) <= target <= filled(high):
            level = low + (high - low) * (target - filled(low)) / (filled(high) - filled(low))
            break
    shares = []
    for row in rows:
        g = row.segment
        ratio = min(Fraction(1), level * segments[g] * length / held[g])
        shares.append(ratio * len(row.members))
    kept = running(shares)
    return kept, running([(1 - Fraction(repr(context_ratio))) * k for k in kept])


def running(shares: list[Fraction]) -> list[int]:
    def rounded(i: int) -> int:
        return math.floor(sum(shares[:i], Fraction(0)) + Fraction(1, 2))

    return [rounded(i + 1) - rounded(i) for i in range(len(shares))]


def choose(
    entries: list[int], look: list[float], points: Array, s: int, expansion: float, neighbors: int, diversity: bool
) -> list[int]:
    order = sorted(range(len(entries)), key=lambda i: (-look[i], i))
    size = min(math.floor(Fraction(repr(expansion)) * s), len(entries))
    if not diversity or size <= s:
        return [entries[i] for i in order[:s]]
    listed = order[:size]
    _, labels = density_peaks([points[entries[i]] for i in listed], s, neighbors)
    return [entries[next(i for i, label in zip(listed, labels, strict=True) if label == j)] for j in range(s)]


def density_peaks(points: list[Array], m: int, neighbors: int) -> tuple[list[int], list[int]]:
    n = len(points)
    if m == 0:
        return [], [-1] * n
    d = [[math.sqrt(float((a - b) @ (a - b))) for b in points] for a in points]
    rho = []
    for i in range(n):
        near = sorted(d[i][j] for j in range(n) if j != i)[:neighbors]
        rho.append(math.exp(-sum(x * x for x in near) / len(near)))
    score = []
    for i in range(n):
        denser = [d[i][j] for j in range(n) if rho[j] > rho[i] or (rho[j] == rho[i] and j < i)]
        score.append(rho[i] * (min(denser) if denser else max(max(row) for row in d)))
    centers = sorted(sorted(range(n), key=lambda i: (-score[i], i))[:m])
    labels = []
    for i in range(n):
        distance = [d[i][c] for c in centers]
        labels.append(centers.index(i) if i in centers else distance.index(min(distance)))
    return centers, labels
