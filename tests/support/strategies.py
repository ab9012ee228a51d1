"""Hypothesis strategies: random and degenerate videos, and settings of Tango."""

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from tangovlm import VideoTokens

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
KINDS = ("random", "scenes", "still", "equal", "zero", "some zero", "duplicates")


def make_features(kind: str, shape: tuple[int, int, int, int], seed: int) -> Tensor:
    """``(T, H, W, D)`` float64 of one of `KINDS`."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    frames, height, width, dim = shape
    if kind == "random":
        return noise(*shape)
    if kind == "scenes":
        # Positions differ in how fast they change, frames in whether they begin a new scene.
        speed = torch.rand(1, height, width, 1, generator=generator, dtype=torch.float64)
        scene, video = noise(1, height, width, dim), []
        for _ in range(frames):
            if torch.rand((), generator=generator) < 0.25:
                scene = noise(1, height, width, dim)
            video.append(scene + speed * noise(1, height, width, dim))
        return torch.cat(video)
    if kind == "still":
        return noise(1, height, width, dim).repeat(frames, 1, 1, 1)
    if kind == "equal":
        return noise(1, 1, 1, dim).expand(shape).clone()
    if kind == "zero":
        return torch.zeros(shape, dtype=torch.float64)
    if kind == "some zero":
        mask = torch.rand(frames, height, width, 1, generator=generator) < 0.5
        return noise(*shape).masked_fill(mask, 0.0)
    choice = torch.randint(0, 3, (frames, height, width), generator=generator)
    return noise(3, dim)[choice]


@st.composite
def video_tokens(
    draw: st.DrawFn,
    kinds: tuple[str, ...] = KINDS,
    dtypes: tuple[torch.dtype, ...] = DTYPES,
    max_frames: int = 7,
    max_side: int = 5,
    min_dim: int = 1,
    max_dim: int = 20,
) -> VideoTokens:
    """A small video with saliency, with or without timestamps and sinks."""
    shape = (
        draw(st.integers(1, max_frames)),
        draw(st.integers(1, max_side)),
        draw(st.integers(1, max_side)),
        draw(st.integers(min_dim, max_dim)),
    )
    seed = draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed + 1)
    features = make_features(draw(st.sampled_from(kinds)), shape, seed)
    saliency = torch.rand(shape[:3], generator=generator)
    if draw(st.booleans()):
        saliency = (saliency * 3).round()
    timestamps = torch.rand(shape[0], generator=generator).add(0.05).cumsum(0) if draw(st.booleans()) else None
    sinks = draw(st.none() | st.sets(st.integers(0, shape[1] * shape[2] - 1), max_size=3).map(tuple))
    dtype = draw(st.sampled_from(dtypes))
    return VideoTokens(features.to(dtype), saliency, timestamps, sink_tokens=sinks)


retentions = st.sampled_from((0.01, 0.05, 0.1, 0.15, 0.2, 0.29, 0.5, 0.75, 0.9, 0.99, 1.0)) | st.floats(0.01, 1.0)

tango_params: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"retention": retentions},
    optional={
        "context_ratio": st.sampled_from((0.0, 0.25, 0.4, 1.0)),
        "expansion": st.sampled_from((1.0, 1.5, 3.0)),
        "neighbors": st.integers(1, 9),
        "anchor_weight": st.sampled_from((0.0, 0.6, 1.0)),
        "segmentation": st.sampled_from(("holitom", "fastvid")),
        "segment_threshold": st.sampled_from((-1.0, 0.3, 0.65, 0.9)),
        "static_threshold": st.sampled_from((-1.0, 0.3, 0.65, 0.9)),
        "st_rope": st.booleans(),
        "timestamps": st.booleans(),
        "diversity": st.booleans(),
        "merge": st.booleans(),
    },
)
