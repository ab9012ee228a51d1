"""A cache layer with room: what it holds and returns is what a stock layer does, and no earlier result changes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers.cache_utils import DynamicLayer

from tangovlm.pipeline.encoded.growing_layer import GrowingLayer

HEADS, WIDTH = 2, 4
Change = Callable[[Any], object]


def numbers(rows: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(rows, HEADS, tokens, WIDTH), torch.randn(rows, HEADS, tokens, WIDTH)


def pair(rows: int, tokens: int = 5) -> tuple[DynamicLayer, GrowingLayer, DynamicLayer]:
    """A stock layer with so many rows, the same with room, and the single row that both were made of."""
    torch.manual_seed(0)
    one, stock = DynamicLayer(), DynamicLayer()
    keys, values = numbers(1, tokens)
    one.update(keys, values)
    stock.update(keys.repeat_interleave(rows, 0), values.repeat_interleave(rows, 0))
    growing = GrowingLayer.of(one)
    if rows > 1:
        growing.batch_repeat_interleave(rows)
    return stock, growing, one


def equal(a: Any, b: Any) -> bool:
    return torch.equal(a.keys, b.keys) and torch.equal(a.values, b.values) and a.get_seq_length() == b.get_seq_length()


@pytest.mark.parametrize("rows", [1, 3])
def test_it_holds_what_a_stock_layer_holds(rows: int) -> None:
    """Over more tokens than it has room for at first."""
    stock, growing, one = pair(rows)
    before = one.keys.clone()
    results = []
    assert equal(stock, growing)
    for tokens in (7, *[1] * 90, 200, 1):
        new = numbers(rows, tokens)
        expected, found = stock.update(*new), growing.update(*new)
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
        assert growing.get_mask_sizes(1) == stock.get_mask_sizes(1)
        results.append((found[0], expected[0]))
    assert all(torch.equal(a, b) for a, b in results)
    assert torch.equal(one.keys, before)


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.crop(-2),
        lambda layer: layer.reorder_cache(torch.tensor([2, 0, 0])),
        lambda layer: layer.batch_select_indices(torch.tensor([1])),
        lambda layer: layer.batch_repeat_interleave(2),
        lambda layer: layer.reset(),
    ],
    ids=["crop", "reorder", "select", "repeat", "reset"],
)
@pytest.mark.parametrize("used", [False, True])
def test_what_stock_methods_change_is_continued(change: Change, used: bool) -> None:
    stock, growing, _ = pair(3)
    if used:
        new = numbers(3, 4)
        stock.update(*new), growing.update(*new)
    held = growing.keys.clone(), growing.keys
    change(stock), change(growing)
    rows = 3 if stock.keys is None else len(stock.keys)
    for tokens in (2, 1):
        new = numbers(rows, tokens)
        stock.update(*new), growing.update(*new)
        assert equal(stock, growing)
    assert torch.equal(*held)


def test_a_token_is_added_without_a_copy_of_the_others() -> None:
    _, growing, _ = pair(2)
    first, _ = growing.update(*numbers(2, 1))
    second, _ = growing.update(*numbers(2, 1))
    assert first.data_ptr() == second.data_ptr()


@pytest.mark.parametrize("rows", [1, 3])
def test_tokens_are_replaced_in_place(rows: int) -> None:
    stock, growing, one = pair(rows)
    before = one.keys.clone()
    stock.update(*(new := numbers(rows, 2))), growing.update(*new)
    place = growing.keys.data_ptr()
    for tokens in (3, 1):
        growing.update(*numbers(rows, tokens))
        growing.rewind(tokens)
        assert equal(stock, growing)
    stock.update(*(new := numbers(rows, 4))), growing.update(*new)
    assert equal(stock, growing)
    assert growing.keys.data_ptr() == place
    assert torch.equal(one.keys, before)
