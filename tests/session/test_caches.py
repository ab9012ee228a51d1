"""What a cache's public methods do to what it carries, for every family: each row goes on as it would alone."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import DynamicCache, StaticCache

import tangovlm
from tangovlm.errors import InputError
from tangovlm.models.common.transformers_compat import Arg, Signature, cache_in
from tangovlm.registry import family_for
from tangovlm.selfcheck.twins import twins
from tangovlm.selfcheck.twins.common.base import Twin
from tangovlm.selfcheck.twins.common.norms import Norms
from tangovlm.selfcheck.twins.common.parts import Row, Said, Video, Words

NEW, FRAMES = 4, 4
ROWS: list[Row] = [(Words(3, 1), Video(FRAMES, 2), Words(5, 3)), (Words(7, 4), Video(FRAMES, 5), Words(4, 6))]
QUESTION = Words(5, 31)
MEANT = Norms(0.4)


@pytest.fixture(scope="module", params=twins())
def host(request: pytest.FixtureRequest) -> Twin:
    twin = twins()[request.param]()
    if not {"batch", "multi-turn"} <= family_for(twin.model).tested:
        pytest.skip(f"{twin.family} does not claim conversations in a batch")
    return twin


def cached(host: Twin, cache: Any) -> dict[str, Any]:
    """The argument that hands a cache over."""
    return Signature(host.model.forward, "the model", ()).values({Arg.CACHE: cache})


def read(host: Twin, rows: list[Row], cache: Any = None) -> Any:
    """The cache of prompts of unequal length."""
    output = host.model(**host.inputs(rows), use_cache=True, **({} if cache is None else cached(host, cache)))
    return cache_in(output)


def go_on(
    host: Twin, cache: Any, rows: int, words: Words = QUESTION, mask: torch.Tensor | None = None
) -> list[list[int]]:
    """Greedy answers to a question, one word after another."""
    ids, said = torch.tensor([words.ids] * rows), []
    for _ in range(NEW):
        options = {}
        if mask is not None:
            mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
            options["attention_mask"] = mask
        output = host.model(input_ids=ids, **cached(host, cache), **options)
        ids, cache = output.logits[:, -1].argmax(-1, keepdim=True), cache_in(output)
        said.append(ids)
    return torch.cat(said, dim=1).tolist()


def alone(host: Twin, row: Row, pruner: Any = MEANT) -> list[int]:
    return host.reference((*row, QUESTION), pruner, NEW)[0]


WAYS: dict[str, tuple[Callable[[Any], Any], list[int]]] = {
    "as it is": (lambda cache: None, [0, 1]),
    "select one": (lambda cache: cache.batch_select_indices(torch.tensor([1])), [1]),
    "select some again": (lambda cache: cache.batch_select_indices(torch.tensor([1, 0, 1])), [1, 0, 1]),
    "repeat": (lambda cache: cache.batch_repeat_interleave(2), [0, 0, 1, 1]),
    "reorder": (lambda cache: cache.reorder_cache(torch.tensor([1, 0])), [1, 0]),
}


@pytest.mark.parametrize("way", WAYS)
@torch.no_grad()
def test_rows(host: Twin, way: str) -> None:
    change, rows = WAYS[way]
    with tangovlm.attach(host.model, MEANT):
        cache = read(host, ROWS)
        change(cache)
        said = go_on(host, cache, len(rows))
    assert said == [alone(host, ROWS[row]) for row in rows]


@torch.no_grad()
def test_two_changes_and_generate(host: Twin) -> None:
    with tangovlm.attach(host.model, MEANT):
        cache = read(host, ROWS)
        cache.batch_repeat_interleave(2)
        cache.batch_select_indices(torch.tensor([3, 0]))
        said = go_on(host, cache, 2)
    assert said == [alone(host, ROWS[1]), alone(host, ROWS[0])]


@torch.no_grad()
def test_copies_go_ways_of_their_own(host: Twin) -> None:
    with tangovlm.attach(host.model, MEANT):
        cache = read(host, ROWS)
        for other in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
            other.batch_select_indices(torch.tensor([1]))
            assert go_on(host, other, 1) == [alone(host, ROWS[1])]
        assert go_on(host, cache, 2) == [alone(host, row) for row in ROWS]


@torch.no_grad()
def test_positions_taken_off(host: Twin) -> None:
    """The answer to a first question is taken back, in each row as long."""
    with tangovlm.attach(host.model, MEANT):
        cache = read(host, ROWS)
        length = cache.get_seq_length()
        go_on(host, cache, 2, Words(3, 50))
        cache.crop(length - cache.get_seq_length())
        assert go_on(host, cache, 2) == [alone(host, row) for row in ROWS]


@torch.no_grad()
def test_an_emptied_cache(host: Twin) -> None:
    inputs = host.inputs(ROWS[:1])
    # Static layers keep their tensors when they are emptied, and dynamic ones of some releases their length.
    cache = StaticCache(config=host.model.config.get_text_config(), max_cache_len=256)
    with tangovlm.attach(host.model, MEANT):
        host.model(**inputs, use_cache=True, **cached(host, cache))
        cache.reset()
        read(host, ROWS[1:], cache)
        assert go_on(host, cache, 1) == [alone(host, ROWS[1])]


@torch.no_grad()
def test_a_static_cache(host: Twin) -> None:
    cache = StaticCache(config=host.model.config.get_text_config(), max_cache_len=256)
    with tangovlm.attach(host.model, MEANT):
        read(host, ROWS, cache)
        cache.reorder_cache(torch.tensor([1, 0]))
        assert go_on(host, cache, 2) == [alone(host, ROWS[1]), alone(host, ROWS[0])]


@torch.no_grad()
def test_more_rows_than_the_cache_has(host: Twin) -> None:
    with tangovlm.attach(host.model, MEANT):
        cache = read(host, ROWS)
        with pytest.raises(InputError, match="the cache has 2 rows, but 4 are to be read: .*batch_repeat_interleave"):
            go_on(host, cache, 4)


@torch.no_grad()
def test_a_shallow_copy_is_refused(host: Twin) -> None:
    with tangovlm.attach(host.model, MEANT):
        cache = copy.copy(read(host, ROWS))
        with pytest.raises(InputError, match=r"copy\.deepcopy"):
            go_on(host, cache, 2)


@torch.no_grad()
def test_pruning_inside(host: Twin) -> None:
    """Layers behind a cut hold less, and know of it; what is padding in the others a caller tells, as in stock code."""
    family = family_for(host.model)
    if "pruning inside" not in family.tested or family.keeps_positions:
        pytest.skip("not claimed, or a loop by hand with a mask fails in the stock model")
    pruner = tangovlm.method("fastv", retention=0.5)
    answers, mask = {}, host.inputs(ROWS)["attention_mask"]
    with tangovlm.attach(host.model, pruner):
        for number in range(2):
            answers[number] = go_on(host, read(host, [ROWS[number]]), 1)[0]
        for way, rows in WAYS.values():
            cache = read(host, ROWS)
            way(cache)
            assert go_on(host, cache, len(rows), mask=mask[rows]) == [answers[row] for row in rows]


@torch.no_grad()
def test_generate_goes_on_with_picked_rows(host: Twin) -> None:
    """As a server that answers one of two conversations: `generate` with all ids."""
    if family_for(host.model).keeps_positions:
        pytest.skip("`generate` of the stock model wants the grids of the whole conversation")
    options: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False}
    inputs = host.inputs(ROWS)
    with tangovlm.attach(host.model, MEANT):
        first = host.model.generate(**inputs, **options, return_dict_in_generate=True)
        cache, said = cache_in(first), first.sequences[1:, inputs["input_ids"].shape[1] :]
        cache.batch_select_indices(torch.tensor([1]))
        ids = torch.cat([first.sequences[1:], torch.tensor([QUESTION.ids])], dim=1)
        mask = torch.cat([inputs["attention_mask"][1:], torch.ones_like(ids[:, inputs["input_ids"].shape[1] :])], dim=1)
        second = host.model.generate(input_ids=ids, attention_mask=mask, **cached(host, cache), **options)
    row = (*ROWS[1], Said(tuple(said[0].tolist())), QUESTION)
    assert second[0, ids.shape[1] :].tolist() == host.reference(row, MEANT, NEW)[0]


def test_what_dynamic_caches_are_asked_for() -> None:
    """The methods that are wrapped are the cache's own."""
    cache = DynamicCache()
    for name in ("batch_select_indices", "batch_repeat_interleave", "reorder_cache", "crop", "reset"):
        assert callable(getattr(cache, name))
