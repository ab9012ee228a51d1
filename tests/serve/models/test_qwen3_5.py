"""Qwen3.5 on vLLM, whose text model keeps a state in most layers."""

import pytest

from tests.support.serve.qwen_cases import QwenCases
from tests.support.serve.qwen_checkpoints import qwen3_5

pytest.importorskip("vllm")


class TestQwen35(QwenCases):
    make = qwen3_5
    counted = False
    caches_prefixes = False
