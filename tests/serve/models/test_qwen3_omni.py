"""Qwen3-Omni's thinker on vLLM."""

import pytest

from tangovlm.models.qwen3_omni import Qwen3Omni
from tests.support.serve.omni_cases import OmniCases
from tests.support.serve.omni_checkpoints import WORDS3, qwen3_omni

pytest.importorskip("vllm")


class TestQwen3Omni(OmniCases):
    make = qwen3_omni
    family = Qwen3Omni
    words = WORDS3
