"""The embedded model, four frames of a drawn clip, and their saliency from the stock tower."""

import numpy as np
import pytest
import torch

from tangovlm.inspection.clips import ClipSource, draw_clip
from tangovlm.pipeline.load import VideoLLM, load
from tangovlm.video import FrameSampling

FRAMES = 4


@pytest.fixture(scope="session")
def llm() -> VideoLLM:
    """Read-only."""
    return load(device="cpu")


@pytest.fixture(scope="session")
def two_clips() -> ClipSource:
    return ClipSource(sampling=FrameSampling(FRAMES), drawn=2)


@torch.no_grad()
def pooling_head_saliency(llm: VideoLLM, seed: int) -> np.ndarray:
    """p-attn ``(T, 8, 8)`` of a drawn clip, from the eager head of the stock tower and plain means of 2 x 2 patches."""
    frames = draw_clip(llm, FRAMES, seed)
    tower = llm.model.model.vision_tower
    hidden = tower(llm.family.prompt.pixels(frames.pixels, llm.config)[0]).last_hidden_state
    probe = tower.head.probe.expand(len(hidden), -1, -1)
    weights = tower.head.attention(probe, hidden, hidden)[1][:, 0]
    return weights.view(-1, 8, 2, 8, 2).mean(dim=(2, 4)).double().numpy()
