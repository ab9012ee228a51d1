"""Options that a server refuses before it loads a model, and the classes that it runs."""

from collections.abc import Iterator
from importlib import import_module
from inspect import isfunction
from pathlib import Path
from typing import Any

import pytest

from tangovlm.errors import InputError, ModelError
from tangovlm.serve import compatibility
from tangovlm.serve import model_registry as models
from tangovlm.serve.internals import table
from tangovlm.serve.model_registry import SERVED_MODELS
from tangovlm.serve.plugin import ServedModelConfig
from tangovlm.serve.videos import media_io
from tangovlm.tiny.clip import write_demo
from tangovlm.video import FrameSampling
from tests.support.serve.checkpoints import embedded

pytest.importorskip("vllm")


def config(tango: object = None, **options: Any) -> Any:
    """The configuration of an engine, as every command of vLLM makes it."""
    from vllm.engine.arg_utils import EngineArgs

    overrides = {} if tango is None else {"hf_overrides": {"tango": tango}}
    return EngineArgs(**({"model": str(embedded()), "dtype": "float32"} | overrides | options)).create_engine_config()


def test_pruning_names_its_worker_and_reader_of_media() -> None:
    from vllm.multimodal.media.connector import MEDIA_CONNECTOR_REGISTRY

    from tangovlm.serve.media_connector import TangoMediaConnector

    assert config().parallel_config.worker_cls.endswith("CPUWorker")
    assert config({}).parallel_config.worker_cls == "tangovlm.serve.cpu_worker.TangoCPUWorker"
    assert config({}, worker_cls="mine.Worker").parallel_config.worker_cls == "mine.Worker"
    assert isinstance(MEDIA_CONNECTOR_REGISTRY.load("http"), TangoMediaConnector)


@pytest.mark.parametrize(
    ("options", "url", "words"),
    [
        ({"start": 1}, "data:video/mp4", "has 'start', but loaders of vLLM sample the whole"),
        ({"end_s": 1}, "data:video/mp4", "give it with 'video_backend': 'tangovlm'"),
        ({"stream": 1, "video_backend": "opencv"}, "data:video/mp4", "has 'stream', but loaders of vLLM"),
        ({"seek": "auto", "video_backend": "tangovlm"}, "data:video/JPEG", "has 'seek', but the video is a list"),
    ],
)
def test_a_part_of_a_video_needs_our_loader(options: dict[str, Any], url: str, words: str) -> None:
    from tangovlm.serve import media_connector

    media_connector.register()
    connector = media_connector.TangoMediaConnector({"video": options})
    with pytest.raises(InputError, match=words):
        connector.fetch_video(f"{url};base64,AAAA")


@pytest.mark.parametrize(
    ("tango", "options", "words"),
    [
        ({"retention": 7}, {}, "retention must be a number"),
        ({"method": "fastv"}, {}, "inside the language model"),
        (
            {"saliency": "mean-query"},
            {},
            "saliency 'mean-query', which the family llava-onevision does not provide",
        ),
        ({}, {"video_pruning_rate": 0.5}, "prune both"),
        ({}, {"compilation_config": {"compile_mm_encoder": True}}, "compile_mm_encoder hides"),
        (
            {},
            {"ec_transfer_config": {"ec_connector": "ECExampleConnector", "ec_role": "ec_producer"}},
            "--ec-transfer-config: encoders in servers of their own",
        ),
        ({}, {"model_impl": "transformers"}, "cannot prune videos of TransformersMultiModal"),
    ],
)
def test_refusals(tango: object, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        config(tango, **options)


def test_original_positions() -> None:
    found = config({"positions": "original"})
    text = found.model_config.hf_config.text_config
    assert text.rope_parameters["mrope_section"] == [text.hidden_size // text.num_attention_heads // 2, 0, 0]
    assert (found.model_config.uses_mrope, found.model_config.mrope_num_dims) == (True, 3)
    assert found.model_config.multimodal_config.is_multimodal_pruning_enabled()
    found.parallel_config.pipeline_parallel_size = 2
    with pytest.raises(ModelError, match="do not know which of its tokens are kept"):
        ServedModelConfig.verify_and_update_config(found)
    scaled = {"rope_type": "linear", "rope_theta": 1e6, "factor": 2.0}
    with pytest.raises(ValueError, match=r"'original' cannot be served: the text model scales its positions .linear."):
        config(None, hf_overrides={"tango": {"positions": "original"}, "text_config": {"rope_parameters": scaled}})


@pytest.mark.parametrize("tango", [{}, {"positions": "contiguous"}])
def test_contiguous_positions_leave_the_model_as_it_is(tango: dict[str, Any]) -> None:
    plain, pruned = config().model_config, config(tango).model_config
    assert pruned.hf_config.text_config.to_dict() == plain.hf_config.text_config.to_dict()
    assert not pruned.uses_mrope
    assert not pruned.multimodal_config.is_multimodal_pruning_enabled()


def test_models_go_by_the_names_of_the_stock_ones() -> None:
    """As the draft models of vLLM look for them."""
    for architecture, model in SERVED_MODELS.items():
        ours = getattr(import_module(f"tangovlm.serve.models.{model.module}"), model.name)
        assert getattr(models, architecture) is ours
        assert ours.__name__ == (architecture if model.own else model.base or architecture)
        stock = getattr(import_module(f"vllm.model_executor.models.{model.stock}"), model.base or architecture)
        assert issubclass(ours, stock)


def test_all_that_the_plug_in_builds_on_is_there() -> None:
    assert [(name, state) for name, state in compatibility.check_internals() if state != "OK"] == []


def replaced() -> Iterator[str]:
    """Methods of vLLM's classes in whose place classes of the plug-in have their own."""
    modules = ["serve.cpu_worker", "serve.media_connector", "serve.models.video_fields", "batch.vllm_engine"]
    for name in [*modules, *(f"serve.models.{model.module}" for model in SERVED_MODELS.values())]:
        module = import_module(f"tangovlm.{name}")
        for ours in vars(module).values():
            if isinstance(ours, type) and ours.__module__ == module.__name__:
                yield from _replaced_by(ours)


def _replaced_by(ours: type) -> Iterator[str]:
    order = ours.__mro__
    first = next((place for place, base in enumerate(order) if base.__module__.startswith("vllm.")), len(order))
    for name in {name for base in order[:first] for name, value in vars(base).items() if isfunction(value)}:
        if not name.startswith("__") and any(
            name in vars(base) for base in order[first:] if base.__module__.startswith("vllm.")
        ):
            yield f"{order[first].__module__}.{order[first].__name__}.{name}"


def test_whatever_is_replaced_stands_in_the_table() -> None:
    told = {str(internal) for group in table.groups().values() for internal in group if internal.use == "replace"}
    found = set(replaced())
    assert len(found) > 20
    # Mixtures of experts have the methods of the dense models.
    for moe, dense in (("qwen3_vl_moe.Qwen3VLMoe", "qwen3_vl.Qwen3VL"), ("Qwen3_5MoeFor", "Qwen3_5For")):
        found = {each.replace(moe, dense) for each in found}
    assert found - told == set()


def test_a_changed_release_is_told_in_one_line_and_harms_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.model_executor.models.llava_onevision import LlavaOnevisionForConditionalGeneration

    def changed(self: Any, inputs: Any, grids: Any) -> None: ...

    monkeypatch.setattr(LlavaOnevisionForConditionalGeneration, "_process_video_pixels", changed)
    for each in (compatibility.first_problem, compatibility.check_at_startup):
        each.cache_clear()
    try:
        words = r"LlavaOnevisionForConditionalGeneration\._process_video_pixels that takes \(inputs, grids\)"
        with pytest.raises(ValueError, match=words):
            config({})
        config()
    finally:
        for each in (compatibility.first_problem, compatibility.check_at_startup):
            each.cache_clear()


@pytest.mark.parametrize("loader", ["opencv", "qwen2_vl", "qwen3_vl"])
def test_every_loader_of_videos_takes_as_many_frames_as_it_is_told(loader: str, tmp_path: Path) -> None:
    from vllm.multimodal.video import VIDEO_LOADER_REGISTRY

    clip = tmp_path / "clip.mp4"
    write_demo(clip)
    frames, _ = VIDEO_LOADER_REGISTRY.load(loader).load_bytes(clip.read_bytes(), **media_io(FrameSampling(12))["video"])
    assert len(frames) == 12


def test_a_method_that_reads_nothing_minds_no_hidden_encoder() -> None:
    options = {"compilation_config": {"compile_mm_encoder": True}}
    assert config({"method": "uniform"}, **options).compilation_config.compile_mm_encoder
