"""LLaVA-Video on vLLM with the newlines of all rows, against the transformers model without hooks."""

from pathlib import Path
from typing import Any

import pytest
import torch

import tangovlm
from tangovlm.budget import count
from tests.support.serve.checkpoints import random_llava_video
from tests.support.serve.engine import Reply, answers
from tests.support.serve.llava_requests import AGAIN, DEFAULT, ONE, SEVERAL, TOGETHER, UNTIMED, check
from tests.support.serve.oracle import LlavaVideoOracle

pytest.importorskip("vllm")

TANGO: dict[str, Any] = {"newlines": "all"}
SHORT = [request for request in ONE if len(request.videos[0][0]) in (7, 16)]
BATCHES = {
    "one": SHORT,
    "default": [DEFAULT, UNTIMED],
    "several": SEVERAL,
    "together": TOGETHER,
    "first": AGAIN[:1],
    "again": AGAIN,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_llava_video(tmp_path_factory.mktemp("checkpoint") / "llava-video")


@pytest.fixture(scope="module")
def oracle(folder: Path) -> LlavaVideoOracle:
    return LlavaVideoOracle.of(folder)


@pytest.fixture(scope="module")
def replies(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Reply]]:
    """All replies of one engine."""
    options = {"max_model_len": 4096, "block_size": 32, "hf_overrides": {"tango": TANGO}}
    told = answers(tmp_path_factory.mktemp("engine"), list(BATCHES.values()), model=str(folder), **options)
    return dict(zip(BATCHES, told, strict=True))


@pytest.mark.parametrize("name", BATCHES)
def test_replies(replies: dict[str, list[Reply]], oracle: LlavaVideoOracle, name: str) -> None:
    """Single videos, several with images, retentions of one clip in one batch, cached prefixes."""
    for request, reply in zip(BATCHES[name], replies[name], strict=True):
        check(reply, oracle.reply(request))
    if name == "again":
        assert all(reply.cached_tokens > 0 for reply in replies[name])


def test_the_oracle_without_pruning_is_the_model(oracle: LlavaVideoOracle) -> None:
    """So that its newlines are where the model has them."""
    (frames, metadata), llm = ONE[0].videos[0], oracle.llm
    pixels = llm.family.prompt.pixels(torch.from_numpy(frames).permute(0, 3, 1, 2), llm.config)
    (features,) = llm.model.model.get_video_features(pixels, return_dict=True).pooler_output
    rows, places = oracle.video(frames, metadata, ONE[0])
    assert ONE[0].retention == 1
    assert torch.equal(rows, features)
    assert places.tolist() == list(range(len(features)))


def test_original_positions_in_chunks_with_another_method(folder: Path, tmp_path: Path) -> None:
    pruned = [request for request in SHORT if request.retention != 1]
    tango = TANGO | {"positions": "original", "method": "vidcom2"}
    options = {"max_num_batched_tokens": 48, "block_size": 32, "max_model_len": 1024, "hf_overrides": {"tango": tango}}
    (told,) = answers(tmp_path, [pruned], model=str(folder), **options)
    oracle, contiguous = (LlavaVideoOracle.of(folder, "vidcom2", each) for each in ("original", "contiguous"))
    moved = 0
    for request, reply in zip(pruned, told, strict=True):
        expected = oracle.reply(request)
        check(reply, expected)
        moved += abs(contiguous.reply(request).logprobs[0] - expected.logprobs[0]) > 0.01
    assert moved > len(pruned) / 2


def config(folder: Path, tango: dict[str, Any] | None) -> Any:
    from vllm.engine.arg_utils import EngineArgs

    overrides = {} if tango is None else {"hf_overrides": {"tango": tango}}
    return EngineArgs(model=str(folder), dtype="float32", max_model_len=4096, **overrides).create_model_config()


def test_newlines_that_depend_on_the_content_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="llava-video keeps the newlines of rows that keep a token.*'newlines': 'all'"):
        config(folder, {})
    with pytest.raises(tangovlm.errors.InputError, match="newlines is 'some': choose 'kept' or 'all'"):
        tangovlm.serve.options.ServeOptions(newlines="some")


@pytest.mark.parametrize("tango", [None, TANGO])
def test_room_for_a_video(folder: Path, tango: dict[str, Any] | None) -> None:
    """Without the plug-in's options too, as the stock class is that of another model."""
    from vllm.multimodal import MULTIMODAL_REGISTRY

    processor = MULTIMODAL_REGISTRY.create_processor(config(folder, tango))
    clip = ONE[0].videos[0]
    items = processor.info.parse_mm_data({"video": [clip if tango else clip[0]]})
    told = processor(ONE[0].prompt, items, hf_processor_mm_kwargs={"tango_retention": 0.2} if tango else {})
    (place,) = told["mm_placeholders"]["video"]
    assert place.length == 16 * 3 + (count(0.2, 16 * 9) if tango else 16 * 9)


def test_the_most_tokens_that_are_dropped_of_a_placeholder(folder: Path) -> None:
    """What cached videos need: the number of frames follows from the length."""
    from vllm.multimodal import MULTIMODAL_REGISTRY

    info = MULTIMODAL_REGISTRY.create_processor(config(folder, TANGO)).info
    for retention in (0.03, 0.1, 0.25, 0.5, 0.99):
        for frames in range(1, 70):
            kept = count(retention, 9 * frames)
            assert info.dropped(kept + 3 * frames, retention) == 9 * frames - kept


def test_an_unpruned_model_has_all_rows() -> None:
    from tangovlm.serve.models.llava_video import TangoLlavaVideo

    model = TangoLlavaVideo.__new__(TangoLlavaVideo)
    vars(model).update(_videos={}, all_features=lambda pixels: pixels + 1)
    assert model._process_video_pixels({"pixel_values_videos": [1, 2]}) == [2, 3]
