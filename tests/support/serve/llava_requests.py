"""Requests to LLaVA-OneVision, and the check of their replies."""

import numpy as np
import pytest

from tangovlm.tiny.clip import decoded_frames
from tangovlm.tiny.synthetic.sampling import sample_clip
from tests.support.serve.engine import Reply, Request

FRAME_TOKENS = 64
RETENTIONS = (1.0, 0.2, 0.1)
OPTIONS = {"max_model_len": 4096, "hf_overrides": {"tango": {"retention": 0.1}}}
TIGHT = OPTIONS | {
    "max_num_batched_tokens": 48,
    "max_num_seqs": 4,
    "max_model_len": 704,
    "block_size": 32,
    "num_gpu_blocks_override": 23,
}
"""Prompts are processed in chunks of 48 tokens, and the cache is too small for the answers of all requests. With so few
tokens a step, vLLM has no room for whole unpruned videos and images."""


def video(seed: int, frames: int) -> tuple[np.ndarray, dict[str, object]]:
    """A clip of the synthetic world, its frames further and further apart."""
    clip = sample_clip(np.random.default_rng(seed))
    pixels = decoded_frames(clip, frames)[0].pixels.permute(0, 2, 3, 1).contiguous().numpy()
    return pixels, {"fps": 8.0, "frames_indices": [2 * frame + frame * frame // 8 for frame in range(frames)]}


def image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (112, 112, 3), dtype=np.uint8)


def asked(question: str, *media: str) -> str:
    return "".join(f"<{kind}>" for kind in media) + f"{question}<|assistant|>"


QUESTION = "What color is the circle?"
ONE = [
    Request(asked(QUESTION, "video"), (video(seed, frames),), retention=retention)
    for retention in RETENTIONS
    for seed, frames in ((0, 16), (1, 7), (2, 24), (3, 1))
]
DEFAULT = Request(asked(QUESTION, "video"), (video(4, 16),))
UNTIMED = Request(asked(QUESTION, "video"), ((video(5, 16)[0], None),))
SEVERAL = [
    Request(asked("How many shapes?", "video", "video"), (video(6, 16), video(7, 5)), retention=0.2),
    Request(asked(QUESTION, "video", "image"), (video(8, 12),), (image(0),)),
    Request(asked(QUESTION, "image", "video"), (video(8, 12),), (image(0),), retention=0.2),
    Request(asked(QUESTION, "image"), (), (image(1),)),
    Request(asked("What color?")),
]
CLIP = video(9, 16)
TOGETHER = [Request(asked(QUESTION, "video"), (CLIP,), retention=retention) for retention in (0.1, 0.2, 1.0)]
LONG = [Request(asked(QUESTION, "video"), (video(10 + n, 16),), max_tokens=90, ignore_eos=True) for n in range(4)]
AGAIN = [
    Request(asked(QUESTION, "video"), (video(20, 24),), retention=0.2),
    Request(asked("How many shapes are there?", "video"), (video(20, 24),), retention=0.2),
]
BATCHES = {
    "one": ONE,
    "default": [DEFAULT, UNTIMED],
    "several": SEVERAL,
    "together": TOGETHER,
    "long": LONG,
    "first": AGAIN[:1],
    "again": AGAIN,
}
"""Batches for one engine, in order."""


def check(reply: Reply, expected: Reply) -> None:
    assert reply.prompt_tokens == expected.prompt_tokens
    assert reply.ids == expected.ids
    assert reply.logprobs == pytest.approx(expected.logprobs, abs=1e-3)
