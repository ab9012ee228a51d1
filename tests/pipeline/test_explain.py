"""What is said of a checkpoint from its config alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from tangovlm import registry
from tangovlm.errors import ModelError
from tangovlm.pipeline.explain import explain
from tangovlm.selfcheck.twins import load


def saved(config: Any, folder: Path, **changes: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


def test_supported_models() -> None:
    found = explain("tangovlm-tiny")
    assert (found.family, found.missing, found.generic) == ("llava-onevision", (), False)
    assert "supported by the family llava-onevision" in found.text


def test_the_original_format_is_converted(tmp_path: Path) -> None:
    published = Path(__file__).parents[1] / "checkpoints" / "published" / "lmms-lab--LLaVA-Video-7B-Qwen2.json"
    found = explain(saved(json.loads(published.read_text()), tmp_path / "original"))
    assert found.family == "llava-video"


def test_a_model_of_the_common_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A class of transformers that, here, no family has registered."""
    monkeypatch.delitem(registry._families, "Qwen2VLForConditionalGeneration")
    config = load("qwen2_vl")().model.config.to_dict()
    found = explain(saved(config, tmp_path / "model", architectures=["Qwen2VLForConditionalGeneration"]))
    assert (found.family, found.missing, found.generic) == (None, (), True)
    assert 'family="generic"' in found.text


def test_a_release_that_is_too_old_for_a_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers, "__version__", "5.17.0")
    found = explain(saved({"architectures": ["Qwen2_5OmniThinkerForConditionalGeneration"]}, tmp_path / "model"))
    assert (found.family, found.generic) == ("qwen2.5-omni", False)
    assert "needs transformers 5.21 or newer, not 5.17.0" in found.text


def test_what_is_missing(tmp_path: Path) -> None:
    text = transformers.Qwen2Config().to_dict()
    found = explain(saved(text, tmp_path / "text", architectures=["Qwen2ForCausalLM"]))
    assert not found.generic
    assert "lacks get_video_features with pixel_values_videos" in found.text
    found = explain(saved({}, tmp_path / "unknown", architectures=["SomebodysModel"]))
    assert "lacks a class SomebodysModel in transformers" in found.text
    found = explain(saved({"model_type": "no-such"}, tmp_path / "config", architectures=["Qwen2ForCausalLM"]))
    assert "lacks a config that transformers" in found.text
    with pytest.raises(ModelError, match="give a checkpoint directory or a hub id"):
        explain(tmp_path / "nothing")
