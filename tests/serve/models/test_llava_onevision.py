"""LLaVA-OneVision on vLLM with the plug-in, against the transformers model with features that were chosen by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch

import tangovlm
from tangovlm.budget import count
from tangovlm.tiny.clip import decoded_frames
from tangovlm.tiny.synthetic.sampling import sample_clip
from tests.support.serve.checkpoints import embedded, nested_names, pooling_head, random_llava_onevision
from tests.support.serve.engine import FORKED_RANKS, IN_PROCESS, RANKS, WITHOUT_PLUGINS, Reply, Request, answers
from tests.support.serve.oracle import Oracle

pytest.importorskip("vllm")

FRAME_TOKENS = 64
RETENTIONS = (1.0, 0.2, 0.1)
OPTIONS = {"max_model_len": 4096, "hf_overrides": {"tango": {"retention": 0.1}}}


def video(seed: int, frames: int) -> tuple[np.ndarray, dict[str, object]]:
    """A clip of the synthetic world, its frames further and further apart."""
    clip = sample_clip(np.random.default_rng(seed))
    pixels = decoded_frames(clip, frames)[0].pixels.permute(0, 2, 3, 1).contiguous().numpy()
    return pixels, {"fps": 8.0, "frames_indices": [2 * frame + frame * frame // 8 for frame in range(frames)]}


def image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (112, 112, 3), dtype=np.uint8)


def asked(question: str, *media: str) -> str:
    return "".join(f"<{kind}>" for kind in media) + f"{question}<|assistant|>"


QUESTION = "What color is the circle?"
ONE = [
    Request(asked(QUESTION, "video"), (video(seed, frames),), retention=retention)
    for retention in RETENTIONS
    for seed, frames in ((0, 16), (1, 7), (2, 24), (3, 1))
]
DEFAULT = Request(asked(QUESTION, "video"), (video(4, 16),))
UNTIMED = Request(asked(QUESTION, "video"), ((video(5, 16)[0], None),))
SEVERAL = [
    Request(asked("How many shapes?", "video", "video"), (video(6, 16), video(7, 5)), retention=0.2),
    Request(asked(QUESTION, "video", "image"), (video(8, 12),), (image(0),)),
    Request(asked(QUESTION, "image", "video"), (video(8, 12),), (image(0),), retention=0.2),
    Request(asked(QUESTION, "image"), (), (image(1),)),
    Request(asked("What color?")),
]
CLIP = video(9, 16)
TOGETHER = [Request(asked(QUESTION, "video"), (CLIP,), retention=retention) for retention in (0.1, 0.2, 1.0)]
LONG = [Request(asked(QUESTION, "video"), (video(10 + n, 16),), max_tokens=90, ignore_eos=True) for n in range(4)]
AGAIN = [
    Request(asked(QUESTION, "video"), (video(20, 24),), retention=0.2),
    Request(asked("How many shapes are there?", "video"), (video(20, 24),), retention=0.2),
]


@pytest.fixture(scope="module")
def replies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Reply]]:
    """All replies of one engine with the plug-in."""
    batches = {
        "one": ONE,
        "default": [DEFAULT, UNTIMED],
        "several": SEVERAL,
        "together": TOGETHER,
        "long": LONG,
        "first": AGAIN[:1],
        "again": AGAIN,
    }
    told = answers(tmp_path_factory.mktemp("engine"), list(batches.values()), model=str(embedded()), **OPTIONS)
    return dict(zip(batches, told, strict=True))


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle.of(embedded())


def check(reply: Reply, expected: Reply) -> None:
    assert reply.prompt_tokens == expected.prompt_tokens
    assert reply.ids == expected.ids
    assert reply.logprobs == pytest.approx(expected.logprobs, abs=1e-3)


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
    """Prompts in pieces of 48 tokens, and room for the answers of fewer requests than run."""
    # With so few tokens a step, vLLM has no place for whole unpruned videos and images.
    numbers = [number for number, request in enumerate(ONE) if request.retention != 1]
    batches = [[ONE[number] for number in numbers], SEVERAL[:1], LONG]
    blocks = 23
    assert sum((reply.prompt_tokens + len(reply.ids)) // 32 for reply in replies["long"]) > blocks
    tight = {"max_num_batched_tokens": 48, "max_num_seqs": 4, "max_model_len": 704, "block_size": 32}
    options = OPTIONS | tight | {"num_gpu_blocks_override": blocks}
    one, several, long = answers(tmp_path, batches, model=str(embedded()), **options)
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
    ("method", "ranks"), [("tango", RANKS), ("visionzip", FORKED_RANKS)], ids=["tango", "visionzip"]
)
def test_two_tensor_parallel_ranks(method: str, ranks: dict[str, str], tmp_path: Path) -> None:
    """With a pooling head from a file, and with attention and keys of which each rank has half the heads."""
    folder, head = random_llava_onevision(tmp_path / "random"), pooling_head(tmp_path / "head.safetensors")
    tango = {"method": method, "head_weights": str(head)}
    options = OPTIONS | {"tensor_parallel_size": 2, "hf_overrides": {"tango": tango}}
    (told,) = answers(tmp_path, [ONE], environment=ranks, model=str(folder), **options)
    oracle = Oracle.of(folder, method, head_weights=head)
    for request, reply in zip(ONE, told, strict=True):
        check(reply, oracle.reply(request))
