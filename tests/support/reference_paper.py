"""`Tango.paper` as loops over Python numbers, written from the paper's definitions (arXiv 2604.09547).

Where the paper states nothing the loops do as the default: counts are rounded by running totals, ties go to the lowest
index, a static token stands in its segment's first frame and is rotated as the token there.
"""

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def reference_paper(
    features: Array,
    saliency: Array,
    times: Array,
    retention: float,
    threshold: float,
    *,
    context_ratio: float = 0.4,
    expansion: float = 1.5,
    neighbors: int = 7,
    sinks: tuple[int, ...] = (),
) -> tuple[list[int], list[Array], list[int]]:
    """Indices that are kept, their values, and the frames of each segment."""
    frames, height, width, _ = features.shape
    length = height * width
    x = features.reshape(frames, length, -1)
    look = saliency.reshape(frames, length).astype(np.float64).copy()
    look[:, list(sinks)] = 0
    z = [[token / max(float(np.linalg.norm(token)), 1e-12) for token in frame] for frame in x]
    alike = [[float(z[t][p] @ z[t + 1][p]) for p in range(length)] for t in range(frames - 1)]
    rotated = [[st_rope(z[t][p], float(times[t]), p // width, p % width) for p in range(length)] for t in range(frames)]

    segments = segment(alike, frames, length, threshold)
    # A row is (segment, whether static, [(frame, position, value, saliency, point)]).
    rows: list[tuple[int, bool, list[tuple[int, int, Array, float, Array]]]] = []
    wanted: list[Fraction] = []
    start = 0
    for number, n in enumerate(segments):
        span = range(start, start + n)
        static = [p for p in range(length) if n > 1 and all(alike[t][p] > threshold for t in span[:-1])]
        dynamic = [p for p in range(length) if p not in static]
        new = []
        if static:
            averaged = [
                (
                    start,
                    p,
                    sum(x[t][p] for t in span) / n,
                    float(sum(look[t][p] for t in span) / n),
                    rotated[start][p],
                )
                for p in static
            ]
            new.append((number, True, averaged))
        if dynamic:
            new += [(number, False, [(t, p, x[t][p], float(look[t][p]), rotated[t][p]) for p in dynamic]) for t in span]
        left = Fraction(n * length - (n - 1) * len(static), n * length)
        local = min(Fraction(repr(retention)) / left, Fraction(1))
        wanted += [local * len(entries) for _, _, entries in new]
        rows += new
        start += n
    kept = rounded(wanted)
    if not sum(kept):
        total = sum(len(entries) for _, _, entries in rows)
        kept = rounded([share / sum(wanted) for share in wanted]) if total else kept
    salient = rounded([(1 - Fraction(repr(context_ratio))) * k for k in kept])

    values: dict[int, Array] = {}
    pools: dict[tuple[int, bool], tuple[list[tuple[int, int, Array, float, Array]], int]] = {}
    for (number, is_static, entries), k, s in zip(rows, kept, salient, strict=True):
        chosen = select(entries, s, expansion, neighbors)
        for i in chosen:
            values[entries[i][0] * length + entries[i][1]] = entries[i][2]
        pool, anchors = pools.get((number, is_static), ([], 0))
        rest = [entry for i, entry in enumerate(entries) if i not in chosen]
        pools[number, is_static] = (pool + rest, anchors + k - s)
    for pool, anchors in pools.values():
        if anchors:
            centers, labels = density_peaks([entry[4] for entry in pool], min(anchors, len(pool)), neighbors)
            for cluster, center in enumerate(centers):
                members = [entry[2] for entry, label in zip(pool, labels, strict=True) if label == cluster]
                values[pool[center][0] * length + pool[center][1]] = sum(members) / len(members)
    order = sorted(values)
    return order, [values[i] for i in order], segments


def segment(alike: list[list[float]], frames: int, length: int, threshold: float) -> list[int]:
    """The cuts of the largest sum of ``(n - 1) * static positions``; a frame of its own, then the shortest first."""
    best: dict[int, tuple[int, list[int]]] = {0: (0, [])}
    for stop in range(1, frames + 1):
        options = []
        for size in range(1, stop + 1):
            pairs = range(stop - size, stop - 1)
            static = sum(all(alike[t][p] > threshold for t in pairs) for p in range(length))
            gain = (size - 1) * static
            options.append((best[stop - size][0] + gain, [*best[stop - size][1], size]))
        best[stop] = max(options, key=lambda option: option[0])
    return best[frames][1]


def st_rope(z: Array, time: float, row: int, column: int) -> Array:
    """Eq. 6 to 8: three blocks of channels, in each of which channels 2k and 2k + 1 turn by p * base^(-2k / d)."""
    space = len(z) // 3 // 2 * 2
    blocks = [(len(z) - 2 * space, time, 1e4), (space, float(row), 1e3), (space, float(column), 1e3)]
    turned, start = [], 0
    for size, position, base in blocks:
        even = size // 2 * 2
        for k in range(size // 2):
            angle = position * base ** (-2 * k / even)
            a, b = z[start + 2 * k], z[start + 2 * k + 1]
            turned += [a * math.cos(angle) - b * math.sin(angle), a * math.sin(angle) + b * math.cos(angle)]
        turned += list(z[start + even : start + size])
        start += size
    return np.array(turned)


def rounded(shares: list[Fraction]) -> list[int]:
    """Every running total is the rounded running total of the shares."""
    counts: list[int] = []
    for end in range(1, len(shares) + 1):
        counts.append(math.floor(sum(shares[:end], Fraction(0)) + Fraction(1, 2)) - sum(counts))
    return counts


def select(
    entries: list[tuple[int, int, Array, float, Array]], keep: int, expansion: float, neighbors: int
) -> list[int]:
    """Of the floor(expansion * keep) most salient entries the best of each of ``keep`` clusters."""
    ranked = sorted(range(len(entries)), key=lambda i: (-entries[i][3], i))
    candidates = ranked[: max(keep, math.floor(Fraction(repr(expansion)) * keep))]
    if len(candidates) <= keep:
        return candidates[:keep]
    _, labels = density_peaks([entries[i][4] for i in candidates], keep, neighbors)
    return [candidates[labels.index(cluster)] for cluster in range(keep)]


def density_peaks(points: list[Array], clusters: int, neighbors: int) -> tuple[list[int], list[int]]:
    """DPC-KNN: the centres, ascending, and the cluster of each point."""
    n = len(points)
    if not clusters:
        return [], [-1] * n
    if n == clusters:
        return list(range(n)), list(range(n))
    d = [[float(np.linalg.norm(a - b)) for b in points] for a in points]
    log_density = [-float(np.mean(sorted(d[i][j] ** 2 for j in range(n) if j != i)[:neighbors])) for i in range(n)]
    score = []
    for i in range(n):
        denser = [j for j in range(n) if (log_density[j], -j) > (log_density[i], -i)]
        # Of the densest point the distance is that to the farthest, max over j of d_ij.
        distance = min(d[i][j] for j in denser) if denser else max(d[i])
        score.append(math.exp(log_density[i]) * distance)
    centers = sorted(sorted(range(n), key=lambda i: (-score[i], i))[:clusters])
    labels = []
    for i in range(n):
        nearest = min(range(clusters), key=lambda c: (d[i][centers[c]], c))
        labels.append(centers.index(i) if i in centers else nearest)
    return centers, labels
