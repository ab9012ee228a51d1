"""What a server refuses before it loads a model, and what it is made of."""

from typing import Any

import pytest

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


def test_a_method_that_reads_nothing_minds_no_hidden_encoder() -> None:
    options = {"compilation_config": {"compile_mm_encoder": True}}
    assert config({"method": "uniform"}, **options).compilation_config.compile_mm_encoder
