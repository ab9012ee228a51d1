"""The digest of the code of a model changes with the code, and with nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from transformers.generation.utils import GenerationMixin
from transformers.models.llava_onevision import modeling_llava_onevision as stock
from transformers.models.qwen2 import modeling_qwen2 as text

from tangovlm.selfcheck.code import code_of, digest
from tangovlm.selfcheck.twins import load


def now() -> str:
    return digest(code_of(load("llava_onevision")().model))


def test_it_is_the_same_in_every_process() -> None:
    """Sets, whose order depends on the process, are among the constants of code."""
    program = """
from tangovlm.selfcheck.code import code_of, digest
from tangovlm.selfcheck.twins import load
print(digest(code_of(load("llava_onevision")().model)))
"""
    # Not in this process: what was compiled in it has other code.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            stdout=subprocess.PIPE,
            text=True,
            env=environment | {"PYTHONHASHSEED": seed},
        )
        for seed in ("0", "1")
    ]
    said = [process.communicate()[0].strip() for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert said[0]
    assert said[0] == said[1]


def other(*_args: Any, **_options: Any) -> Any:
    return None


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (stock.LlavaOnevisionModel, "get_video_features"),
        (stock.LlavaOnevisionForConditionalGeneration, "forward"),
        (GenerationMixin, "prepare_inputs_for_generation"),
        (text.Qwen2DecoderLayer, "forward"),
        (text, "apply_rotary_pos_emb"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)).split(".")[-1],
)
def test_it_changes_with_the_code(owner: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = now()
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, other)
        assert now() != before
    assert now() == before


def test_it_does_not_depend_on_the_weights_or_the_size() -> None:
    assert digest(code_of(load("llava_onevision")(seed=3, layers=4).model)) == now()
