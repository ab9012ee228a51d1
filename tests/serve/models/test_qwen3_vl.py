"""Qwen3-VL on vLLM."""

from typing import ClassVar

import pytest

from tests.support.serve.engine import Reply, Request
from tests.support.serve.qwen_cases import QwenCases, both
from tests.support.serve.qwen_checkpoints import qwen3_vl
from tests.support.serve.qwen_oracle import Oracle
from tests.support.serve.qwen_requests import asked, video

pytest.importorskip("vllm")

FRAMES, SECONDS = video(20, 30)
SAMPLED = [
    Request(
        asked("What?", "video"),
        ((FRAMES, {"fps": 8.0, "frames_indices": list(range(30)), "total_num_frames": 30, "do_sample_frames": True}),),
        retention=retention,
    )
    for retention in (1.0, 0.2)
]
"""As vLLM's loader returns a short video: all of its frames, of which the stock processor samples some."""


class TestQwen3VL(QwenCases):
    make = qwen3_vl
    counted = False
    also: ClassVar = {"sampled": SAMPLED}

    def test_frames_that_the_processor_samples(self, replies: dict[str, list[Reply]], oracle: Oracle) -> None:
        both(SAMPLED, replies["sampled"], oracle)
