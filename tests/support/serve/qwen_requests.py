"""Requests to both Qwen-VL families, and the check of their replies."""

import numpy as np
import pytest

from tests.support.serve.engine import Reply, Request

RETENTIONS = (1.0, 0.2, 0.1)
OPTIONS = {"max_model_len": 2048, "block_size": 32, "hf_overrides": {"tango": {"retention": 0.1}}}
TIGHT = {
    "max_model_len": 352,
    "max_num_batched_tokens": 48,
    "max_num_seqs": 4,
    "block_size": 32,
    "num_gpu_blocks_override": 13,
}
"""Prompts are processed in chunks of 48 tokens, and the cache is too small for the answers of all requests."""


def video(seed: int, frames: int, height: int = 96, width: int = 160) -> tuple[np.ndarray, dict[str, object]]:
    """Noise on blocks of color that change every five frames, the frames further and further apart."""
    generator = np.random.default_rng(seed)
    seen = []
    for frame in range(frames):
        if frame % 5 == 0:
            blocks = generator.integers(0, 255, (height // 16, width // 16, 3))
        noisy = np.clip(blocks + generator.integers(-40, 40, blocks.shape), 0, 255).astype(np.uint8)
        seen.append(noisy.repeat(16, axis=0).repeat(16, axis=1))
    indices = [2 * frame + frame * frame // 8 for frame in range(frames)]
    return np.stack(seen), {"fps": 8.0, "frames_indices": indices, "total_num_frames": indices[-1] + 1}


def image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (96, 160, 3), dtype=np.uint8)


def asked(question: str, *media: str) -> str:
    seen = "".join(f"<|vision_start|><|{kind}_pad|><|vision_end|>" for kind in media)
    return f"<|im_start|>user\n{seen}{question}<|im_end|>\n<|im_start|>assistant\n"


ONE = [
    Request(asked("What?", "video"), (video(seed, frames, *size),), retention=retention)
    for retention in RETENTIONS
    for seed, frames, size in ((0, 16, ()), (1, 7, (64, 96)))
]
FULL = [request for request in ONE if request.retention == 1]
DEFAULT = Request(asked("What?", "video"), (video(3, 16),))
SEVERAL = [
    Request(asked("Which?", "video", "video"), (video(4, 16), video(5, 6, 64, 96)), retention=0.2),
    Request(asked("Which?", "video", "image"), (video(6, 12),), (image(0),)),
    Request(asked("Which?", "image", "video"), (video(6, 12),), (image(0),), retention=0.2),
    Request(asked("Which?", "video", "image", "video"), (video(6, 12), video(7, 5)), (image(1),), retention=0.2),
    Request(asked("What?", "image"), (), (image(2),)),
    Request(asked("What?")),
]
TOGETHER = [Request(asked("Who?", "video"), (video(8, 16),), retention=retention) for retention in (0.1, 0.2, 1.0)]
AGAIN = [
    Request(asked(f"Look closely and tell what you see: {question}", "video"), (video(9, 24),), retention=0.2)
    for question in ("Who is it?", "Where?")
]
LONG = [
    Request(asked("Tell!", "video"), (video(10 + seed, 16),), max_tokens=96, ignore_eos=True, retention=0.1)
    for seed in range(3)
]


def check(reply: Reply, expected: Reply) -> None:
    assert not reply.error
    assert reply.prompt_tokens == expected.prompt_tokens
    assert reply.ids == expected.ids
    assert reply.logprobs == pytest.approx(expected.logprobs, abs=1e-3)
