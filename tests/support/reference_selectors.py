"""Random, VidCom2, VisionZip and FrameFusion once more: plain loops in float64, written from their descriptions.

Nothing of the library is used, and features are (T, L, D).
"""

import math
import struct

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def unit_vector(x: Array) -> Array:
    return x / max(math.sqrt(float(x @ x)), 1e-12)


def random_ranks(features: list[list[list[float]]], seed: int) -> list[int]:
    """The hash of each token, in unsigned 64-bit arithmetic, as a signed number."""
    wrap, step = 2**64, 0x9E3779B97F4A7C15

    def mix(x: int) -> int:
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % wrap
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % wrap
        return x ^ (x >> 31)

    tokens = [token for frame in features for token in frame]
    channel = [mix((c + 1) * step % wrap) for c in range(len(tokens[0]))]
    digest = 0
    for i, token in enumerate(tokens):
        bits = [int.from_bytes(struct.pack("<f", value + 0.0), "little", signed=True) for value in token]
        content = sum(mix((b + c) % wrap) * c for b, c in zip(bits, channel, strict=True))
        digest += mix((content + i * step) % wrap)
    start = mix((digest + seed * step) % wrap)
    hashes = [mix((start + i * step) % wrap) for i in range(len(tokens))]
    return [h - wrap if h >= wrap // 2 else h for h in hashes]


def vidcom2_scores(features: Array, retention: float, channel_ratio: float) -> tuple[Array, list[float]]:
    """How typical each token is ``(T, L)``, and the fraction of each frame that the release keeps."""
    frames, length, dim = features.shape
    flat = features.reshape(-1, dim)
    variance = [float(np.mean((flat[:, c] - flat[:, c].mean()) ** 2)) for c in range(dim)]
    channels = sorted(range(dim), key=lambda c: (variance[c], c))[: max(1, int(dim * channel_ratio))]
    points = np.array([[unit_vector(features[t, p, channels]) for p in range(length)] for t in range(frames)])
    to_video, to_frame = np.zeros((frames, length)), np.zeros((frames, length))
    center = points.reshape(frames * length, -1).mean(axis=0)
    for t in range(frames):
        for p in range(length):
            for target, scores in ((center, to_video), (points[t].mean(axis=0), to_frame)):
                squared = float(((points[t, p] - target) ** 2).sum())
                scores[t, p] = sum(math.exp(-squared / (2 * alpha)) for alpha in (0.125, 0.25, 0.5, 1, 2))
    q = [-float(to_video[t].mean()) for t in range(frames)]
    odds = [math.exp((value - max(q)) / 0.01) for value in q]
    share = [value / sum(odds) for value in odds]
    scale = [min(retention * (1 + value - 1 / frames), 1.0) for value in share]
    return to_video + to_frame, scale


def visionzip(
    features: Array, saliency: Array, keys: Array, counts: list[tuple[int, int]]
) -> tuple[dict[int, Array], list[int]]:
    """Grid index to value of the slots, and the grid index that each token goes to or -1."""
    frames, length, _ = features.shape
    values: dict[int, Array] = {}
    home = [-1] * (frames * length)
    for t, (dominant, contextual) in enumerate(counts):
        ranked = sorted(range(length), key=lambda p: (-saliency[t, p], p))
        for p in ranked[:dominant]:
            values[t * length + p] = features[t, p]
            home[t * length + p] = t * length + p
        rest = sorted(ranked[dominant:])
        if not contextual:
            continue
        step = max(1, len(rest) // contextual)
        targets = rest[::step][:contextual]
        taken: dict[int, list[Array]] = {target: [] for target in targets}
        for p in rest:
            target = p
            if p not in taken:
                likeness = [float(unit_vector(keys[t, p]) @ unit_vector(keys[t, other])) for other in targets]
                target = targets[int(np.argmax(likeness))]
                taken[target].append(features[t, p])
            home[t * length + p] = t * length + target
        for target, others in taken.items():
            values[t * length + target] = features[t, target] + (np.mean(others, axis=0) if others else 0.0)
    return values, home


def framefusion(features: Array, merges: int) -> tuple[dict[int, Array], list[int]]:
    """Grid index to value of the slots, and the grid index that each token goes to."""
    frames, length, _ = features.shape

    def cosine(a: Array, b: Array) -> float:
        return float(unit_vector(a) @ unit_vector(b))

    in_time = [(t, p) for t in range(1, frames) for p in range(length)]
    in_time.sort(key=lambda tp: (-cosine(features[tp], features[tp[0] - 1, tp[1]]), tp))
    means = features.mean(axis=0)
    in_space = sorted(range(1, length), key=lambda p: (-cosine(means[p], means[p - 1]), p))
    joined = set(in_time[:merges]) | {(0, p) for p in in_space[: max(0, merges - len(in_time))]}
    runs: list[list[int]] = []
    for p in range(length):
        for t in range(frames):
            if (t, p) in joined:
                runs[-1].append(t * length + p)
            else:
                runs.append([t * length + p])
    flat = features.reshape(frames * length, -1)
    home = [-1] * (frames * length)
    for run in runs:
        for token in run:
            home[token] = run[0]
    return {run[0]: flat[run].mean(axis=0) for run in runs}, home
