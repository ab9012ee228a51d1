"""The processors and models of the plug-in for Qwen-VL, without an engine."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("vllm")

from tangovlm.budget import count
from tangovlm.errors import InputError, ModelError
from tangovlm.inputs import timestamps
from tangovlm.serve.plugin import ServedModelConfig
from tests.support.serve.qwen_checkpoints import qwen2_5_vl, qwen3_vl
from tests.support.serve.qwen_requests import asked, video

FAMILIES = {"qwen2_5_vl": qwen2_5_vl, "qwen3_vl": qwen3_vl}
ARCHITECTURES = {
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
}
TANGO = {"hf_overrides": {"tango": {"retention": 0.1}}}


@pytest.fixture(scope="module", params=list(FAMILIES))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FAMILIES[request.param](tmp_path_factory.mktemp("checkpoint") / request.param)


def module_of(folder: Path) -> Any:
    """The plug-in's module of a family."""
    from tangovlm.serve.models import qwen2_5_vl, qwen3_vl

    return {"qwen2_5_vl": qwen2_5_vl, "qwen3_vl": qwen3_vl}[folder.name]


def processor(folder: Path, *, ours: bool = True, **options: Any) -> Any:
    """The plug-in's processor, or the stock one."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.multimodal import MULTIMODAL_REGISTRY

    options = {"max_model_len": 2048} | options
    config = EngineArgs(model=str(folder), dtype="float32", **options).create_model_config()
    found = MULTIMODAL_REGISTRY.create_processor(config)
    module = module_of(folder)
    assert type(found) is module.Processor
    if ours:
        return found
    stock = module.Processor.__mro__[2]
    return stock(found.info, found.dummy_inputs)


def processed(processor: Any, *videos: tuple[np.ndarray, dict[str, Any]], **kwargs: Any) -> Any:
    prompt = asked("What?", *["video"] * len(videos))
    items = processor.info.parse_mm_data({"video": list(videos)})
    return processor(prompt, items, hf_processor_mm_kwargs=kwargs)


def fields(told: Any, number: int = 0) -> Any:
    return told["mm_kwargs"]["video"][number]


def test_room_for_what_is_kept(folder: Path) -> None:
    ours = processor(folder, **TANGO)
    for retention in (0.1, 0.2, 0.29):
        told = processed(ours, video(0, 16), video(1, 5, 64, 96), tango_retention=retention)
        for number, place in enumerate(told["mm_placeholders"]["video"]):
            tokens = int(fields(told, number)["video_grid_thw"].data.prod()) // 4
            visual = told["prompt_token_ids"][place.offset : place.offset + place.length].count(6)
            assert visual == count(retention, tokens)
            assert float(fields(told, number)["tango_retention"].data) == retention


def test_times_of_steps_are_those_of_the_library(folder: Path) -> None:
    clip = video(0, 16)
    told = processed(processor(folder, **TANGO), clip, video(1, 5))
    (times,) = timestamps.from_metadata(clip[1])
    # Two frames per step: the time is their mean, as in the prompt of Qwen3-VL, or that of the first one.
    middle = folder.name == "qwen3_vl"
    (wanted,) = timestamps.assign([times], [8], frames_per_step=2, middle=middle)
    assert torch.equal(fields(told)["tango_timestamps"].data, wanted)
    if middle:
        assert list(fields(told)["timestamps"].data) == wanted.tolist()
    assert fields(told)["tango_timestamps"].data.dtype == torch.float64


def test_times_of_frames_that_the_processor_samples(folder: Path) -> None:
    frames, _ = video(0, 32)
    metadata = {"fps": 8.0, "frames_indices": list(range(32)), "total_num_frames": 32}
    clip = (frames, metadata | {"do_sample_frames": True})
    told = processed(processor(folder, **TANGO), clip, do_sample_frames=True, fps=2.0)
    times = fields(told)["tango_timestamps"].data
    assert int(fields(told)["video_grid_thw"].data[0]) == 4
    if folder.name == "qwen3_vl":
        # The stock video processor returns the indices of sampled frames; that of Qwen2.5-VL only their interval.
        taken = torch.linspace(0, 31, 8, dtype=torch.float64).round() / 8
        assert torch.equal(times, (taken[::2] + taken[1::2]) / 2)
    else:
        assert times.tolist() == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [({"tango_retention": 7}, "tango_retention"), ({"tango_retain": 0.1}, "'tango_retain'")],
)
def test_bad_options_of_a_request(folder: Path, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        processed(processor(folder, **TANGO), video(0, 4), **kwargs)


def test_times_that_run_backwards(folder: Path) -> None:
    frames, metadata = video(0, 4)
    with pytest.raises(InputError, match="do not increase"):
        processed(processor(folder, **TANGO), (frames, metadata | {"frames_indices": [0, 9, 4, 12]}))


def test_a_video_without_frames(folder: Path) -> None:
    frames, metadata = video(0, 4)
    with pytest.raises(InputError, match="no frame"):
        processed(processor(folder, **TANGO), (frames[:0], metadata | {"frames_indices": []}))


@pytest.mark.parametrize("options", [{}, {"video_pruning_rate": 0.5}], ids=["plain", "vllms own pruning"])
def test_without_options_it_is_the_stock_processor(folder: Path, options: dict[str, Any]) -> None:
    ours, stock = (
        processed(processor(folder, ours=each, **options), video(0, 16), video(1, 5)) for each in (True, False)
    )
    assert ours["prompt_token_ids"] == stock["prompt_token_ids"]
    assert set(fields(ours)) == set(fields(stock))
    for name in fields(ours):
        assert type(fields(ours)[name].data) is type(fields(stock)[name].data)


def models(folder: Path) -> list[type]:
    return [value for name, value in vars(module_of(folder)).items() if name.startswith("Tango")]


def test_adapters_find_the_stock_modules(folder: Path) -> None:
    from vllm.model_executor.models.interfaces import supports_lora

    grid = {"video_grid_thw": SimpleNamespace(data=torch.tensor([4, 6, 10]))}
    pruned = grid | {"tango_retention": SimpleNamespace(data=0.1)}
    for model in models(folder):
        stock = next(each for each in model.__mro__ if each.__module__.startswith("vllm."))
        assert supports_lora(model)
        assert model.get_mm_mapping is stock.get_mm_mapping
        assert model.hf_to_vllm_mapper is stock.hf_to_vllm_mapper
        bare = model.__new__(model)
        vision = SimpleNamespace(spatial_merge_size=2)
        vars(bare).update(_family=SimpleNamespace(merge_size=2), config=SimpleNamespace(vision_config=vision))
        # An adapter of the vision encoder is applied before pruning.
        assert bare.get_mm_lora_token_counts(modality="video", mm_kwargs=pruned, num_mm_embeds=6) == (240, 60)
        assert bare.get_mm_lora_token_counts(modality="video", mm_kwargs=grid, num_mm_embeds=60) == (240, 60)
        assert bare.get_mm_lora_token_counts(modality="image", mm_kwargs={}, num_mm_embeds=6) == (24, 6)


def test_a_step_without_media_costs_nothing(folder: Path) -> None:
    class Unread(list[int]):
        def __iter__(self) -> Any:
            raise AssertionError("the prompt is read")

    found = torch.arange(12).expand(3, -1)
    for model in models(folder):
        self = SimpleNamespace(_pruning=object())
        left, positions, delta = model.recompute_mrope_positions(self, Unread(range(10)), [], found, 9)
        assert (left, delta) == ([], 0)
        assert positions is found


def test_the_runner_of_gpus_gets_the_same_positions(folder: Path) -> None:
    """vLLM's other runner, of which no engine here makes use: a video and a question in pieces of 16 tokens."""
    from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange
    from vllm.v1.worker.gpu.model_states.mm_pruning import MultiModalPruner

    from tangovlm.serve.models import mrope_positions

    offsets = torch.randint(0, 300, (3, 40))
    item = mrope_positions.append_positions(torch.zeros(40, 8), offsets, lead=0)
    ids = [9] * 5 + [6] * 40 + [9] * 7
    text = torch.arange(5).expand(3, -1), 500 + torch.arange(7).expand(3, -1)
    state = torch.cat([text[0], mrope_positions.pending_positions(torch.full((3,), 5), 40), text[1]], dim=1).int()
    wanted = torch.cat([text[0], 5 + offsets, text[1]], dim=1)
    deltas: list[int] = []

    def update(_request: int, found: torch.Tensor, delta: int) -> None:
        state.copy_(found)
        deltas.append(delta)

    rope = SimpleNamespace(read_prefill_positions=lambda _, length: state[:, :length], update_prefill_positions=update)
    place = PlaceholderRange(5, 40)
    cache = SimpleNamespace(mm_features={"r": [MultiModalFeatureSpec(None, "video", "", place)]})
    for model in models(folder):
        served = SimpleNamespace(_pruning=object(), _width=8, config=SimpleNamespace(video_token_id=6))
        served.recompute_mrope_positions = partial(model.recompute_mrope_positions, served)
        pruner = MultiModalPruner(served, rope, cache, 8)
        for start in range(0, len(ids), 16):
            new = min(16, len(ids) - start)
            rows = item[max(start - 5, 0) : max(start + new - 5, 0)]
            batch = {
                "req_ids": ["r"],
                "idx_mapping_np": np.array([0]),
                "prefill_len_np": np.array([len(ids)]),
                "num_computed_prefill_tokens_np": np.array([start]),
                "num_scheduled_tokens": np.array([new]),
            }
            requests = SimpleNamespace(all_token_ids=SimpleNamespace(gpu=torch.tensor([ids])))
            given = [rows] if len(rows) else []
            left = pruner.recompute(given, SimpleNamespace(**batch), requests)
            assert [part.shape[1] for part in left] == [8] * len(given)
        assert torch.equal(state.long(), wanted)
        assert set(deltas) == {507 - len(ids)}


@pytest.mark.parametrize(
    ("parallel", "mode", "words"),
    [(2, "weights", "--pipeline-parallel-size"), (1, "data", "--mm-encoder-tp-mode data: all ranks need")],
)
def test_ways_to_run_that_are_refused(folder: Path, parallel: int, mode: str, words: str) -> None:
    hf_config = SimpleNamespace(tango={"retention": 0.1})
    model = SimpleNamespace(
        hf_config=hf_config,
        architecture=ARCHITECTURES[folder.name],
        multimodal_config=SimpleNamespace(mm_encoder_tp_mode=mode),
        uses_mrope=True,
    )
    config = SimpleNamespace(
        model_config=model,
        compilation_config=SimpleNamespace(compile_mm_encoder=False),
        parallel_config=SimpleNamespace(pipeline_parallel_size=parallel, worker_cls="mine"),
        ec_transfer_config=None,
    )
    with pytest.raises(ModelError, match=words):
        ServedModelConfig.verify_and_update_config(config)


def test_a_low_retention_lets_no_longer_videos_in(folder: Path) -> None:
    """Because the encoder processes all frames, at any retention."""
    ours = processor(folder, hf_overrides={"tango": {"retention": 1.0}}, max_model_len=100)
    processed(ours, video(0, 8), tango_retention=0.1)
    with pytest.raises(InputError, match="at retention 1, but --max-model-len is 100"):
        processed(ours, video(0, 16), tango_retention=0.1)
