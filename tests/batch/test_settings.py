"""Which engine the batch command chooses."""

import importlib.util
import json
from pathlib import Path

import pytest

from tangovlm.batch.settings import Settings, check_settings, choose_engine
from tangovlm.errors import InputError


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        ("LlavaOnevisionForConditionalGeneration", ""),
        ("LlavaVideoForConditionalGeneration", "llava-video keeps the newlines of rows that keep a token"),
        ("Qwen2_5OmniModel", "only tangovlm serve runs Qwen2_5OmniModel on vLLM"),
        ("GemmaForCausalLM", "the plug-in for vLLM does not know GemmaForCausalLM"),
    ],
)
def test_what_vllm_cannot_do_goes_to_transformers(
    architecture: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: object() if name == "vllm" else find(name, *rest)
    )
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    kind, told = choose_engine(Settings(model=str(tmp_path)))
    assert kind == ("transformers" if reason else "vllm")
    assert told.startswith(reason)
    if reason:
        with pytest.raises(InputError, match="use --engine transformers"):
            check_settings(Settings(model=str(tmp_path), kind="vllm"))
