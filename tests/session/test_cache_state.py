"""The state of a cache follows the methods of the cache, for every family: answers are those of single prompts."""

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
from tangovlm.selfcheck.twins.common.parts import PromptParts, RandomWords, TokenIds, Video
from tests.support.hosts import first_of_each_family

NEW, FRAMES = 4, 4
ROWS: list[PromptParts] = [
    (RandomWords(3, 1), Video(FRAMES, 2), RandomWords(5, 3)),
    (RandomWords(7, 4), Video(FRAMES, 5), RandomWords(4, 6)),
]
QUESTION = RandomWords(5, 31)
MEANT = Norms(0.4)


@pytest.fixture(scope="module", params=first_of_each_family())
def host(request: pytest.FixtureRequest) -> Twin:
    twin = twins()[request.param]()
    if not {"batch", "multi-turn"} <= family_for(twin.model).tested:
        pytest.skip(f"{twin.family} does not claim conversations in a batch")
    return twin


def cached(host: Twin, cache: Any) -> dict[str, Any]:
    """The keyword argument for a cache."""
    return Signature(host.model.forward, "the model", ()).values({Arg.CACHE: cache})


def claims(host: Twin, name: str) -> None:
    """Skip where no layer of a stock cache has this method."""
    if family_for(host.model)(host.model).recurrent and name in (
        "batch_select_indices",
        "batch_repeat_interleave",
        "crop",
    ):
        pytest.skip(f"recurrent layers of stock caches have no working {name}")


def read(host: Twin, rows: list[PromptParts], cache: Any = None) -> Any:
    """The cache of prompts of unequal length."""
    output = host.model(**host.inputs(rows), use_cache=True, **({} if cache is None else cached(host, cache)))
    return cache_in(output)


def continue_greedily(
    host: Twin, cache: Any, rows: int, words: RandomWords = QUESTION, mask: torch.Tensor | None = None
) -> list[list[int]]:
    """Greedy answers to a question, one token at a time."""
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


def alone(host: Twin, row: PromptParts, pruner: Any = MEANT) -> list[int]:
    return host.reference((*row, QUESTION), pruner, NEW)[0]


WAYS: dict[str, tuple[Callable[[Any], Any], list[int]]] = {
    "unchanged": (lambda cache: None, [0, 1]),
    "select one": (lambda cache: cache.batch_select_indices(torch.tensor([1])), [1]),
    "select some again": (lambda cache: cache.batch_select_indices(torch.tensor([1, 0, 1])), [1, 0, 1]),
    "repeat": (lambda cache: cache.batch_repeat_interleave(2), [0, 0, 1, 1]),
    "reorder": (lambda cache: cache.reorder_cache(torch.tensor([1, 0])), [1, 0]),
}


@pytest.mark.parametrize("way", WAYS)
@torch.no_grad()
def test_changed_batch_entries(host: Twin, way: str) -> None:
    change, rows = WAYS[way]
    claims(
        host,
        {"select": "batch_select_indices", "repeat": "batch_repeat_interleave"}.get(way.split()[0], "reorder_cache"),
    )
    with tangovlm.attach(host.model, MEANT):
        cache = read(host, ROWS)
        change(cache)
        said = continue_greedily(host, cache, len(rows))
    assert said == [alone(host, ROWS[row]) for row in rows]


@torch.no_grad()
def test_two_changes_and_generate(host: Twin) -> None:
    claims(host, "batch_repeat_interleave")
    with tangovlm.attach(host.model, MEANT):
        cache = read(host, ROWS)
        cache.batch_repeat_interleave(2)
        cache.batch_select_indices(torch.tensor([3, 0]))
        said = continue_greedily(host, cache, 2)
    assert said == [alone(host, ROWS[1]), alone(host, ROWS[0])]


@torch.no_grad()
def test_copies_are_independent(host: Twin) -> None:
    claims(host, "batch_select_indices")
    with tangovlm.attach(host.model, MEANT):
        cache = read(host, ROWS)
        for other in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
            other.batch_select_indices(torch.tensor([1]))
            assert continue_greedily(host, other, 1) == [alone(host, ROWS[1])]
        assert continue_greedily(host, cache, 2) == [alone(host, row) for row in ROWS]


@torch.no_grad()
def test_cropping(host: Twin) -> None:
    """The answer to a first question, equally long in each batch entry, is removed."""
    claims(host, "crop")
    if host.family == "gemma-4":
        pytest.skip("a stock cache that has filled its window cannot be cropped")
    with tangovlm.attach(host.model, MEANT):
        cache = read(host, ROWS)
        length = cache.get_seq_length()
        continue_greedily(host, cache, 2, RandomWords(3, 50))
        cache.crop(length - cache.get_seq_length())
        assert continue_greedily(host, cache, 2) == [alone(host, row) for row in ROWS]


@torch.no_grad()
def test_a_reset_cache(host: Twin) -> None:
    inputs = host.inputs(ROWS[:1])
    # After `reset`, static layers keep their tensors, and dynamic ones of some releases their length.
    cache = StaticCache(config=host.model.config.get_text_config(), max_cache_len=256)
    with tangovlm.attach(host.model, MEANT):
        host.model(**inputs, use_cache=True, **cached(host, cache))
        cache.reset()
        read(host, ROWS[1:], cache)
        assert continue_greedily(host, cache, 1) == [alone(host, ROWS[1])]


@torch.no_grad()
def test_a_static_cache(host: Twin) -> None:
    cache = StaticCache(config=host.model.config.get_text_config(), max_cache_len=256)
    with tangovlm.attach(host.model, MEANT):
        read(host, ROWS, cache)
        cache.reorder_cache(torch.tensor([1, 0]))
        assert continue_greedily(host, cache, 2) == [alone(host, ROWS[1]), alone(host, ROWS[0])]


@torch.no_grad()
def test_more_batch_entries_than_the_cache_has(host: Twin) -> None:
    with tangovlm.attach(host.model, MEANT):
        cache = read(host, ROWS)
        with pytest.raises(InputError, match="has 2 batch entries, but the inputs have 4: .*batch_repeat_interleave"):
            continue_greedily(host, cache, 4)


@torch.no_grad()
def test_a_shallow_copy_is_refused(host: Twin) -> None:
    with tangovlm.attach(host.model, MEANT):
        cache = copy.copy(read(host, ROWS))
        with pytest.raises(InputError, match=r"copy\.deepcopy"):
            continue_greedily(host, cache, 2)


@torch.no_grad()
def test_pruning_inside(host: Twin) -> None:
    """The state includes the shorter layers after a cut; the caller gives the padding, as in stock code."""
    family = family_for(host.model)
    if "pruning inside" not in family.tested or family.keeps_positions:
        pytest.skip("not claimed, or a loop by hand with a mask fails in the stock model")
    pruner = tangovlm.method("fastv", retention=0.5)
    answers, mask = {}, host.inputs(ROWS)["attention_mask"]
    with tangovlm.attach(host.model, pruner):
        for number in range(2):
            answers[number] = continue_greedily(host, read(host, [ROWS[number]]), 1)[0]
        for way, rows in WAYS.values():
            cache = read(host, ROWS)
            way(cache)
            assert continue_greedily(host, cache, len(rows), mask=mask[rows]) == [answers[row] for row in rows]


@torch.no_grad()
def test_generate_continues_with_selected_entries(host: Twin) -> None:
    """A server continues one of two conversations: `generate` with all ids."""
    if family_for(host.model).keeps_positions:
        pytest.skip("`generate` of the stock model wants the grids of the whole conversation")
    if family_for(host.model)(host.model).recurrent:
        pytest.skip("recurrent layers of stock caches have no batch_select_indices")
    options: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False}
    inputs = host.inputs(ROWS)
    with tangovlm.attach(host.model, MEANT):
        first = host.model.generate(**inputs, **options, return_dict_in_generate=True)
        cache, said = cache_in(first), first.sequences[1:, inputs["input_ids"].shape[1] :]
        cache.batch_select_indices(torch.tensor([1]))
        ids = torch.cat([first.sequences[1:], torch.tensor([QUESTION.ids])], dim=1)
        mask = torch.cat([inputs["attention_mask"][1:], torch.ones_like(ids[:, inputs["input_ids"].shape[1] :])], dim=1)
        second = host.model.generate(input_ids=ids, attention_mask=mask, **cached(host, cache), **options)
    row = (*ROWS[1], TokenIds(tuple(said[0].tolist())), QUESTION)
    assert second[0, ids.shape[1] :].tolist() == host.reference(row, MEANT, NEW)[0]


def test_wrapped_methods_are_those_of_a_cache() -> None:
    """A stock cache has all methods that are wrapped."""
    cache = DynamicCache()
    for name in ("batch_select_indices", "batch_repeat_interleave", "reorder_cache", "crop", "reset"):
        assert callable(getattr(cache, name))
