"""LLaVA-OneVision on vLLM with the plug-in, against the transformers model with features that were chosen by hand."""

from pathlib import Path

import pytest
import torch

import tangovlm
from tangovlm.budget import count
from tests.support.serve.checkpoints import embedded, nested_names, pooling_head, random_llava_onevision
from tests.support.serve.engine import FORKED_RANKS, IN_PROCESS, RANKS, WITHOUT_PLUGINS, Reply, Request, answers
from tests.support.serve.llava_requests import (
    AGAIN,
    BATCHES,
    CLIP,
    DEFAULT,
    FRAME_TOKENS,
    LONG,
    ONE,
    OPTIONS,
    QUESTION,
    SEVERAL,
    TIGHT,
    TOGETHER,
    UNTIMED,
    check,
)  # fmt: skip
from tests.support.serve.oracle import Oracle

pytest.importorskip("vllm")


@pytest.fixture(scope="module")
def replies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Reply]]:
    """All replies of one engine with the plug-in."""
    told = answers(tmp_path_factory.mktemp("engine"), list(BATCHES.values()), model=str(embedded()), **OPTIONS)
    return dict(zip(BATCHES, told, strict=True))


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle.of(embedded())


def test_the_oracle_is_what_attach_does(oracle: Oracle) -> None:
    (frames, metadata), llm = CLIP, oracle.llm
    pixels = llm.family.prompt.pixels(torch.from_numpy(frames).permute(0, 3, 1, 2), llm.config)
    seconds = torch.tensor(metadata["frames_indices"]) / 8.0
    inputs = llm.family.prompt.inputs(llm.tokenizer, llm.template, pixels, QUESTION, seconds)
    with tangovlm.attach(llm.model, tangovlm.Tango(retention=0.1), timestamps=seconds):
        said = llm.model.generate(**inputs, max_new_tokens=6, do_sample=False)
    assert said[0, inputs["input_ids"].shape[1] :].tolist() == oracle.reply(TOGETHER[0]).ids


@pytest.mark.parametrize("number", range(len(ONE)))
def test_a_video(replies: dict[str, list[Reply]], oracle: Oracle, number: int) -> None:
    request, reply = ONE[number], replies["one"][number]
    check(reply, oracle.reply(request))
    words = len(oracle.llm.tokenizer(request.prompt)["input_ids"]) - 1
    assert reply.prompt_tokens == words + 1 + count(request.retention, len(request.videos[0][0]) * FRAME_TOKENS)


def test_the_retention_of_the_server_and_no_timestamps(replies: dict[str, list[Reply]], oracle: Oracle) -> None:
    for request, reply in zip([DEFAULT, UNTIMED], replies["default"], strict=True):
        check(reply, oracle.reply(request))


def test_several_videos_images_and_text(replies: dict[str, list[Reply]], oracle: Oracle) -> None:
    for request, reply in zip(SEVERAL, replies["several"], strict=True):
        check(reply, oracle.reply(request))


def test_retentions_of_one_clip_in_one_batch(replies: dict[str, list[Reply]], oracle: Oracle) -> None:
    for request, reply in zip(TOGETHER, replies["together"], strict=True):
        check(reply, oracle.reply(request))


def test_a_cached_prefix_with_the_video_in_it(replies: dict[str, list[Reply]], oracle: Oracle) -> None:
    (cold,), warm = replies["first"], replies["again"]
    assert cold.cached_tokens == 0
    for request, reply in zip(AGAIN, warm, strict=True):
        assert reply.cached_tokens > 0
        check(reply, oracle.reply(request))


def test_chunked_prefill_and_preemption(replies: dict[str, list[Reply]], oracle: Oracle, tmp_path: Path) -> None:
    numbers = [number for number, request in enumerate(ONE) if request.retention != 1]
    batches = [[ONE[number] for number in numbers], SEVERAL[:1], LONG]
    blocks = sum((reply.prompt_tokens + len(reply.ids)) // TIGHT["block_size"] for reply in replies["long"])
    assert blocks > TIGHT["num_gpu_blocks_override"]
    one, several, long = answers(tmp_path, batches, model=str(embedded()), **TIGHT)
    whole = [*(replies["one"][number] for number in numbers), replies["several"][0], *replies["long"]]
    for pieces, expected in zip([*one, *several, *long], whole, strict=True):
        check(pieces, expected)
    check(long[0], oracle.reply(LONG[0]))


def test_full_retention_is_vanilla(replies: dict[str, list[Reply]], tmp_path: Path) -> None:
    """Against vLLM without the plug-in, which wants other names of weights, and with it but without its options."""
    stock = nested_names(embedded(), tmp_path / "stock")
    full = [request for request in ONE if request.retention == 1]
    # One at a time: vLLM's own model fails where videos of different lengths meet.
    plain = [[Request(each.prompt, each.videos, each.images)] for each in full]
    stock_alone, unasked = (
        answers(tmp_path, plain, environment=environment, model=str(stock), max_model_len=4096)
        for environment in (IN_PROCESS | WITHOUT_PLUGINS, IN_PROCESS)
    )
    assert unasked == stock_alone
    for reply, (vanilla,) in zip(replies["one"], stock_alone, strict=False):
        assert (reply.ids, reply.prompt_tokens) == (vanilla.ids, vanilla.prompt_tokens)
        assert reply.logprobs == pytest.approx(vanilla.logprobs, abs=1e-5)


def test_another_method_with_frame_features(tmp_path: Path) -> None:
    requests = [each for each in ONE if each.retention != 1]
    options = OPTIONS | {"hf_overrides": {"tango": {"method": "fastvid"}}}
    (told,) = answers(tmp_path, [requests], model=str(embedded()), **options)
    oracle = Oracle.of(embedded(), "fastvid")
    for request, reply in zip(requests, told, strict=True):
        check(reply, oracle.reply(request))


@pytest.mark.parametrize(
    ("method", "positions", "ranks"),
    [("tango", "contiguous", RANKS), ("visionzip", "original", FORKED_RANKS)],
    ids=["tango", "visionzip"],
)
def test_two_tensor_parallel_ranks(method: str, positions: str, ranks: dict[str, str], tmp_path: Path) -> None:
    """With a pooling head from a file, and with attention and keys of which each rank has half the heads."""
    folder, head = random_llava_onevision(tmp_path / "random"), pooling_head(tmp_path / "head.safetensors")
    tango = {"method": method, "head_weights": str(head), "positions": positions}
    options = OPTIONS | {"tensor_parallel_size": 2, "hf_overrides": {"tango": tango}}
    (told,) = answers(tmp_path, [ONE], environment=ranks, model=str(folder), **options)
    oracle = Oracle.of(folder, method, positions, head_weights=head)
    for request, reply in zip(ONE, told, strict=True):
        check(reply, oracle.reply(request))
