"""FastVID against a slow version written token by token."""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tangovlm import VideoTokens, method
from tangovlm.budget import count
from tangovlm.kernels.dpc_knn.reference import dpc_knn_reference
from tests.support.strategies import make_features

Floats = NDArray[np.float64]


def cosine(a: Floats, b: Floats) -> float:
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12))


def shares(total: int, number: int) -> list[int]:
    """``total`` in equal parts, by running totals that are rounded half up."""
    bounds = [(2 * total * i + number) // (2 * number) for i in range(number + 1)]
    return [b - a for a, b in pairwise(bounds)]


def slow_fastvid(
    features: Floats, saliency: Floats, frames: Floats, kept: int, context: float, interval: int, weight: float
) -> tuple[list[int], dict[int, Floats], list[int]]:
    """Segments, what stands at each slot, and the slot that each token is most like."""
    number, length, dim = features.shape
    similar = [cosine(frames[t], frames[t + 1]) for t in range(number - 1)]
    cuts = sorted(
        set(sorted(range(number - 1), key=similar.__getitem__)[:2]) | {t for t, s in enumerate(similar) if s < 0.5}
    )
    ends = [*(t + 1 for t in cuts), number]
    in_frame = shares(kept, number)
    salient_total = np.floor((1 - context) * np.cumsum(in_frame) + 0.5 + 1e-9).astype(int)
    salient = np.diff(salient_total, prepend=0).tolist()
    order = [sorted(range(length), key=lambda i, t=t: (-saliency[t, i], i)) for t in range(number)]
    values: dict[int, Floats] = {}
    home = [-1] * (number * length)
    start = 0
    for end in ends:
        for t in range(start, end):
            for i in order[t][: salient[t]]:
                values[t * length + i] = features[t, i]
                home[t * length + i] = t * length + i
        pools = {t: sorted(order[t][salient[t] :]) for t in range(start, end)}
        budget = sum(in_frame[t] - salient[t] for t in range(start, end))
        step = interval
        while sum(len(pools[t]) for t in range(end - 1, start - 1, -step)) < budget:
            step -= 1
        anchor_frames = sorted(range(end - 1, start - 1, -step))
        highest = dict.fromkeys(range(start * length, end * length), -np.inf)
        taken = []
        for t, anchors in zip(anchor_frames, fill(budget, [len(pools[t]) for t in anchor_frames]), strict=True):
            if not anchors:
                continue
            points = [(features[t, i] / np.sqrt(dim)).tolist() for i in pools[t]]
            chosen = dpc_knn_reference(points, anchors, 4, include_self=True)[0]
            slots = [t * length + pools[t][c] for c in chosen]
            taken += slots
            members: dict[int, list[int]] = {slot: [] for slot in slots}
            for f in range(start, end):
                for i in pools[f]:
                    token = f * length + i
                    likeness = {slot: cosine(features[f, i], features[t, slot - t * length]) for slot in slots}
                    slot = token if token in slots else max(slots, key=lambda s: (likeness[s], -s))
                    members[slot].append(token)
                    if likeness[slot] > highest[token] + 1e-12:
                        highest[token], home[token] = likeness[slot], slot
            for slot, tokens in members.items():
                own = max(1 / (len(tokens) + 1), weight)
                mean = np.mean([features[divmod(token, length)] for token in tokens], axis=0)
                values[slot] = own * features[divmod(slot, length)] + (1 - own) * mean
        for slot in taken:
            home[slot] = slot
        start = end
    return [b - a for a, b in pairwise([0, *ends])], values, home


def fill(total: int, caps: list[int]) -> list[int]:
    """Equal parts, unless a cap is lower; then by the level that sums to the total, rounded like `shares`."""
    level = max(caps)
    for cap in sorted(set(caps)):
        if sum(min(c, cap) for c in caps) >= total:
            full = [c for c in caps if c < cap]
            level = (total - sum(full)) / (len(caps) - len(full))
            break
    bounds = np.floor(np.cumsum([0.0, *[min(c, level) for c in caps]]) + 0.5 + 1e-9).astype(int)
    return np.diff(bounds).tolist()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(1, 7),
    st.integers(1, 4),
    st.sampled_from(("random", "scenes")),
    st.sampled_from((0.1, 0.25, 0.5, 0.8, 0.95)),
    st.sampled_from((0.0, 0.25, 0.5, 1.0)),
    st.integers(1, 4),
    st.sampled_from((0.0, 0.3, 0.6)),
    st.integers(0, 2**31),
)
def test_equals_the_slow_version(
    frames: int, side: int, kind: str, retention: float, context: float, interval: int, weight: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = make_features(kind, (frames, side, 3, 8), seed)
    saliency = torch.rand(frames, side, 3, generator=generator, dtype=torch.float64)
    frame_features = torch.randn(frames, 5, generator=generator, dtype=torch.float64)
    params: dict[str, Any] = {"context_ratio": context, "anchor_interval": interval, "anchor_weight": weight}
    pruner = method("fastvid", retention=retention, min_segments=3, segment_threshold=0.5, **params)
    selection = pruner(VideoTokens(features, saliency, frame_features=frame_features))
    kept = count(retention, saliency.numel())
    sizes, values, home = slow_fastvid(
        features.flatten(1, 2).numpy(),
        saliency.flatten(1).numpy(),
        frame_features.numpy(),
        kept,
        context,
        interval,
        weight,
    )
    assert selection.segments == tuple(sizes)
    assert selection.indices.tolist() == sorted(values)
    np.testing.assert_allclose(selection.features.numpy(), np.stack([values[i] for i in sorted(values)]), atol=1e-10)
    number = {slot: i for i, slot in enumerate(sorted(values))}
    assert selection.sources.flatten().tolist() == [number.get(slot, -1) for slot in home]


def test_anchor_frames_come_closer_together_only_as_far_as_they_must() -> None:
    # One segment of 4 frames of 4 tokens, all 8 kept tokens anchors: two anchor frames hold them, 3 apart.
    tokens = VideoTokens(make_features("random", (4, 2, 2, 8), 0), torch.ones(4, 2, 2))
    settings = {"min_segments": 1, "segment_threshold": -1.0, "context_ratio": 1.0, "retention": 0.5}
    selection = method("fastvid", **settings)(tokens)
    assert selection.indices.tolist() == [0, 1, 2, 3, 12, 13, 14, 15]
    assert int(selection.sources.min()) == 0
