"""What a server refuses before it loads a model, and what it is made of."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tangovlm.serve.command import media_io
from tangovlm.serve.plugin import MODELS
from tangovlm.tiny.clip import write_demo
from tests.serve.checkpoints import embedded

pytest.importorskip("vllm")


def config(tango: object = None, **options: Any) -> Any:
    """The configuration of an engine, as every command of vLLM makes it."""
    from vllm.engine.arg_utils import EngineArgs

    overrides = {} if tango is None else {"hf_overrides": {"tango": tango}}
    return EngineArgs(**({"model": str(embedded()), "dtype": "float32"} | overrides | options)).create_engine_config()


def test_pruning_names_its_worker_and_reader_of_media() -> None:
    from vllm.multimodal.media.connector import MEDIA_CONNECTOR_REGISTRY

    from tangovlm.serve.media import Connector

    assert config().parallel_config.worker_cls.endswith("CPUWorker")
    assert config({}).parallel_config.worker_cls == "tangovlm.serve.cpu_worker.TangoCPUWorker"
    assert config({}, worker_cls="mine.Worker").parallel_config.worker_cls == "mine.Worker"
    assert isinstance(MEDIA_CONNECTOR_REGISTRY.load("http"), Connector)


@pytest.mark.parametrize(
    ("tango", "options", "words"),
    [
        ({"retention": 7}, {}, "retention must be a number"),
        ({"method": "fastv"}, {}, "inside the language model"),
        ({"saliency": "mean-query"}, {}, "the saliency 'mean-query', which the family llava-onevision does not give"),
        ({}, {"video_pruning_rate": 0.5}, "prune both"),
        ({}, {"compilation_config": {"compile_mm_encoder": True}}, "compile_mm_encoder hides"),
        ({}, {"model_impl": "transformers"}, "cannot prune videos of TransformersMultiModal"),
    ],
)
def test_refusals(tango: object, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        config(tango, **options)


def test_models_go_by_the_names_of_the_stock_ones() -> None:
    """As the draft models of vLLM look for them."""
    for architecture, place in MODELS.items():
        module, name = place.split(":")
        assert getattr(import_module(module), name).__name__ == architecture


@pytest.mark.parametrize("loader", ["opencv", "qwen2_vl", "qwen3_vl"])
def test_every_loader_of_videos_takes_as_many_frames_as_it_is_told(loader: str, tmp_path: Path) -> None:
    from vllm.multimodal.video import VIDEO_LOADER_REGISTRY

    clip = tmp_path / "clip.mp4"
    write_demo(clip)
    frames, _ = VIDEO_LOADER_REGISTRY.load(loader).load_bytes(clip.read_bytes(), **media_io(12)["video"])
    assert len(frames) == 12


def test_a_method_that_reads_nothing_minds_no_hidden_encoder() -> None:
    options = {"compilation_config": {"compile_mm_encoder": True}}
    assert config({"method": "uniform"}, **options).compilation_config.compile_mm_encoder
