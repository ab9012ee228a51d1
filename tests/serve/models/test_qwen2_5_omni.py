"""Qwen2.5-Omni's thinker on vLLM."""

import pytest

from tangovlm.models.qwen2_5_omni import Qwen25Omni
from tests.support.serve.omni_cases import OmniCases
from tests.support.serve.omni_checkpoints import WORDS2, qwen2_5_omni

pytest.importorskip("vllm")


class TestQwen25Omni(OmniCases):
    make = qwen2_5_omni
    family = Qwen25Omni
    words = WORDS2
