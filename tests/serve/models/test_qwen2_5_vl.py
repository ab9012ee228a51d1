"""Qwen2.5-VL on vLLM."""

from pathlib import Path
from typing import ClassVar

import pytest

from tests.support.serve.engine import Reply, Request
from tests.support.serve.qwen_cases import QwenCases, both
from tests.support.serve.qwen_checkpoints import qwen2_5_vl
from tests.support.serve.qwen_oracle import Oracle
from tests.support.serve.qwen_requests import asked, video

pytest.importorskip("vllm")

SHORT = [Request(asked("What?", "video"), (video(20, 4),), retention=retention) for retention in (1.0, 0.2)]
"""Videos after which transformers and vLLM agree on the positions of text."""


class TestQwen25VL(QwenCases):
    make = qwen2_5_vl
    counted = True
    also: ClassVar = {"short": SHORT}

    def test_positions_of_transformers_where_they_are_vllms(
        self, replies: dict[str, list[Reply]], folder: Path
    ) -> None:
        both(SHORT, replies["short"], Oracle.of(folder))
