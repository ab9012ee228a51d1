"""Positions of the unpruned prompt for LLaVA-OneVision on vLLM, against the transformers model with the same ones."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import tangovlm
from tests.support.serve.checkpoints import embedded, pooling_head, random_llava_onevision
from tests.support.serve.engine import Reply, Request, answers
from tests.support.serve.llava_requests import (
    BATCHES,
    CLIP,
    LONG,
    ONE,
    OPTIONS,
    QUESTION,
    SEVERAL,
    TIGHT,
    TOGETHER,
    asked,
    check,
)  # fmt: skip
from tests.support.serve.oracle import Oracle

pytest.importorskip("vllm")

ORIGINAL: dict[str, Any] = {"retention": 0.1, "positions": "original"}
USES = ("one", "default", "several", "together", "first", "again")
FAR = Request(
    asked(QUESTION, "video", "video"),
    tuple((np.full((250, 112, 112, 3), shade, dtype=np.uint8), None) for shade in (10, 20)),
)
"""Two videos of 16,000 tokens each, which fit into the context if pruned, but not into vLLM's table of rotations."""


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle.of(embedded(), positions="original")


@pytest.fixture(scope="module")
def replies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Reply]]:
    """All replies of one engine."""
    batches = {name: BATCHES[name] for name in USES} | {"far": [FAR], "after": ONE[-2:]}
    options = OPTIONS | {"hf_overrides": {"tango": ORIGINAL}}
    told = answers(tmp_path_factory.mktemp("engine"), list(batches.values()), model=str(embedded()), **options)
    return dict(zip(batches, told, strict=True))


def test_the_oracle_is_what_attach_does(oracle: Oracle) -> None:
    (frames, metadata), llm = CLIP, oracle.llm
    pixels = llm.family.prompt.pixels(torch.from_numpy(frames).permute(0, 3, 1, 2), llm.config)
    seconds = torch.tensor(metadata["frames_indices"]) / 8.0
    inputs = llm.family.prompt.inputs(llm.tokenizer, llm.template, pixels, QUESTION, seconds)
    with tangovlm.attach(llm.model, tangovlm.Tango(retention=0.1), timestamps=seconds, positions="original"):
        said = llm.model.generate(
            **inputs, max_new_tokens=6, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
    expected = oracle.reply(TOGETHER[0])
    assert said.sequences[0, inputs["input_ids"].shape[1] :].tolist() == expected.ids
    logprobs = [float(each.log_softmax(-1).max()) for each in said.logits]
    assert logprobs == pytest.approx(expected.logprobs, abs=1e-4)


@pytest.mark.parametrize("name", USES)
def test_replies(replies: dict[str, list[Reply]], oracle: Oracle, name: str) -> None:
    """Single videos, several with images, retentions of one clip in one batch, cached prefixes."""
    for request, reply in zip(BATCHES[name], replies[name], strict=True):
        check(reply, oracle.reply(request))
    if name == "again":
        assert all(reply.cached_tokens > 0 for reply in replies[name])


def test_positions_that_vllm_cannot_rotate_by(replies: dict[str, list[Reply]]) -> None:
    assert "need positions above 32767" in replies["far"][0].error
    for found, expected in zip(replies["after"], replies["one"][-2:], strict=True):
        check(found, expected)


def test_chunked_prefill_and_preemption_with_another_method(tmp_path: Path) -> None:
    """On a model whose answers depend on positions more than on anything else."""
    folder, head = random_llava_onevision(tmp_path / "random"), pooling_head(tmp_path / "head.safetensors")
    pruned = [request for request in ONE if request.retention != 1]
    options = TIGHT | {"hf_overrides": {"tango": ORIGINAL | {"method": "fastvid", "head_weights": str(head)}}}
    batches = [pruned, SEVERAL[:1], LONG]
    told = answers(tmp_path, batches, model=str(folder), **options)
    oracle, contiguous = (Oracle.of(folder, "fastvid", each, head_weights=head) for each in ("original", "contiguous"))
    for requests, replies in zip(batches, told, strict=True):
        for request, reply in zip(requests, replies, strict=True):
            check(reply, oracle.reply(request))
    moved = [abs(contiguous.reply(each).logprobs[0] - oracle.reply(each).logprobs[0]) for each in pruned]
    assert sum(difference > 0.01 for difference in moved) > len(moved) / 2


# --- without an engine ----------------------------------------------------------------------------------------------

VIDEO, WIDTH = 7, 4


def feature(offset: int, length: int, retention: float | None = None, features: int = 0) -> Any:
    fields = {} if retention is None else {"tango_retention": retention, "tango_features": features}
    data = {name: SimpleNamespace(data=torch.tensor(value)) for name, value in fields.items()}
    return SimpleNamespace(mm_position=SimpleNamespace(offset=offset, length=length), data=data)


def model() -> Any:
    from tangovlm.serve.models.original_positions import OriginalPositions

    made = OriginalPositions()
    rotary = object.__new__(_rotary())
    rotary.__dict__["cache_max_position_num"] = 4096
    layer = SimpleNamespace(self_attn=SimpleNamespace(rotary_emb=rotary))
    made.recompute_positions([layer], SimpleNamespace(hidden_size=WIDTH, max_position_embeddings=1024), VIDEO)
    return made


def _rotary() -> type:
    from vllm.model_executor.layers.rotary_embedding.mrope import MRotaryEmbedding

    return MRotaryEmbedding


def test_runners_ask_only_instances_that_recompute() -> None:
    from vllm.model_executor.models.interfaces import supports_mrope, supports_multimodal_pruning

    from tangovlm.serve.models.llava_onevision import TangoLlavaOnevision

    assert supports_mrope(model())
    assert supports_multimodal_pruning(model())
    assert not supports_multimodal_pruning(TangoLlavaOnevision)
    assert not hasattr(TangoLlavaOnevision, "supports_mrope")


@pytest.mark.parametrize("rows", [None, 4095])
def test_a_model_that_cannot_rotate_is_refused(rows: int | None) -> None:
    rotary = object() if rows is None else object.__new__(_rotary())
    if rows is not None:
        rotary.__dict__["cache_max_position_num"] = rows
    layer = SimpleNamespace(self_attn=SimpleNamespace(rotary_emb=rotary))
    with pytest.raises(tangovlm.errors.ModelError, match="rotates by positions of one axis"):
        model().recompute_positions([layer], SimpleNamespace(hidden_size=WIDTH, max_position_embeddings=1024), VIDEO)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_positions_of_a_prompt_in_chunks(size: int) -> None:
    """Two words, 3 of 100 tokens and a newline, an image, 2 of 50, the next video at once: 1 of 30; no more text."""
    kept = {2: [4, 50, 99, 100], 8: [0, 49, 50], 11: [12, 30]}
    ids = [1, 1] + [VIDEO] * 4 + [2, 2] + [VIDEO] * 5
    features = [feature(8, 3, 0.04, 51), feature(2, 4, 0.03, 101), feature(11, 2, 0.03, 31), feature(6, 2)]
    wanted = [0, 1, 6, 52, 101, 102, 103, 104, 105, 154, 155, 168, 186]
    served = model()
    positions, delta = served.get_mrope_input_positions(ids, features)
    assert delta == 187 - len(ids)
    pending = torch.tensor([each == VIDEO for each in ids])
    assert bool((positions[:, pending] < 0).all())
    assert positions[:, ~pending].tolist() == [[0, 1, 103, 104]] * 3
    items = {6: torch.ones(2, WIDTH)}
    for start, indices in kept.items():
        items[start] = served.place(torch.ones(len(indices), WIDTH), torch.tensor(indices))
    for start in range(0, len(ids), size):
        parts = [
            part
            for at, rows in sorted(items.items())
            if len(part := rows[max(start - at, 0) : max(start + size - at, 0)])
        ]
        embeddings, positions, delta = served.recompute_mrope_positions(ids, parts, positions, start)
        assert [each.shape[1] for each in embeddings] == [WIDTH] * len(parts)
    assert positions.tolist() == [wanted] * 3
    assert delta == 187 - len(ids)


def test_an_unpruned_video_keeps_its_embeddings() -> None:
    served = model()
    positions, delta = served.get_mrope_input_positions([1, VIDEO, VIDEO, 1], [feature(1, 2, 1.0, 2)])
    assert (positions.tolist(), delta) == ([[0, 1, 2, 3]] * 3, 0)
