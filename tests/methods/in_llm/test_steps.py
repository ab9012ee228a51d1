"""What every method promises of its step, on prompts of any shape: exact counts, order, untouched inputs."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tangovlm
from tangovlm import budget
from tangovlm.methods.in_llm.common.merge import later_in_slot
from tangovlm.methods.in_llm.common.view import PromptView
from tangovlm.session.in_llm.attention import attention_rows
from tests.methods.test_build import NAMES


@dataclass
class Made:
    """A look at made-up attention."""

    weights: Tensor
    states: Tensor

    def attention(self, queries: Tensor | None = None) -> Tensor:
        return self.weights[:, -1:] if queries is None else self.weights[:, queries]

    def attention_chunks(self, queries: Tensor) -> Iterator[Tensor]:
        yield from (self.attention(part) for part in queries.split(2))

    def keys(self) -> Tensor:
        return self.states

    def norm(self, hidden: Tensor) -> Tensor:
        return hidden * 2


@settings(max_examples=120)
@given(
    name=st.sampled_from(NAMES),
    n=st.integers(1, 40),
    before=st.integers(0, 3),
    after=st.integers(0, 4),
    ratio=st.floats(0.01, 1),
    kind=st.sampled_from(["random", "equal", "zero"]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]),
    seed=st.integers(0, 99),
)
def test_promises(
    name: str, n: int, before: int, after: int, ratio: float, kind: str, dtype: torch.dtype, seed: int
) -> None:
    torch.manual_seed(seed)
    # Without text after the video, this method raises an error.
    after = max(after, name == "flexselect")
    length = before + n + after
    hidden = torch.randn(length, 6).to(dtype)
    if kind != "random":
        hidden = torch.ones_like(hidden) * (kind == "equal")
    visual = torch.arange(before, before + n)
    probe = Made(torch.randn(2, length, length).softmax(-1), torch.randn(2, length, 3))
    pruner = tangovlm.method(name)
    memo = pruner.prepare(hidden[visual], hidden[before + n :])
    view = PromptView(hidden, visual, n, round(ratio, 4), probe, memo)
    copies = [tensor.clone() for tensor in (hidden, probe.weights, probe.states)]
    step, again = pruner(view), pruner(view)
    assert step.values.shape == (budget.count(view.ratio, n), 6)
    assert step.values.dtype == dtype
    assert bool(step.values.isfinite().all())
    indices = step.indices.tolist()
    assert len(indices) >= 1
    assert indices == sorted(set(indices))
    assert indices[0] >= 0
    assert indices[-1] < n
    assert torch.equal(step.values, again.values)
    assert torch.equal(step.indices, again.indices)
    for tensor, copy in zip((hidden, probe.weights, probe.states), copies, strict=True):
        assert torch.equal(tensor, copy)
    if name in ("fastv", "dart", "pyramiddrop", "flexselect"):
        assert torch.equal(step.values, hidden[visual[step.indices]])


@pytest.mark.parametrize("name", ["fastv", "tango-fastv", "holitom-merge", "pyramiddrop", "flexselect"])
def test_ties_go_to_the_lowest_index(name: str) -> None:
    probe = Made(torch.full((2, 12, 12), 1 / 12), torch.ones(2, 12, 3))
    step = tangovlm.method(name)(PromptView(torch.ones(12, 4), torch.arange(1, 11), 10, 0.3, probe))
    assert step.indices.tolist() == [0, 1, 2]


def test_sparsevlm_recycles() -> None:
    """Of 30 dropped tokens the 10 best make 2 new ones, which the exact count includes and the release adds."""
    torch.manual_seed(0)
    hidden = torch.randn(45, 6)
    probe = Made(torch.randn(2, 45, 45).softmax(-1), torch.randn(2, 45, 3))
    view = PromptView(hidden, torch.arange(2, 42), 40, 0.25, probe)
    for params, kept, new in (({}, 8, 2), ({"exact": False}, 10, 2), ({"recycle": False}, 10, 0)):
        step = tangovlm.method("sparsevlm", **params)(view)
        assert (step.indices.numel(), len(step.values) - step.indices.numel()) == (kept, new)


def test_attention_of_a_query_over_an_earlier_turn() -> None:
    torch.manual_seed(0)
    queries, keys = torch.randn(4, 9, 8), torch.randn(2, 9, 8)
    logits = queries @ keys.repeat_interleave(2, 0).transpose(1, 2) * 0.3
    whole = logits.masked_fill(torch.ones(9, 9, dtype=torch.bool).triu(1), float("-inf")).softmax(-1)
    places = torch.tensor([1, 4])
    got = attention_rows(queries[:, places + 4], keys[:, 4:], places, 0.3, past=keys[:, :4])
    torch.testing.assert_close(got, whole[:, places + 4, 4:])


def test_later_in_slot() -> None:
    slots = torch.tensor([2, 0, 2, 2, 0])
    assert later_in_slot(slots, 4).tolist() == [2, 1, 1, 0, 0]


@pytest.mark.parametrize(("name", "params"), [("pyramiddrop", {}), ("dart", {"visual_pivots": 2, "text_pivots": 2})])
def test_the_releases_truncate_the_product_of_floats(name: str, params: dict[str, int]) -> None:
    """0.57 * 300 is 170.99999999999997 in floats."""
    n, length = 300, 310
    hidden, rows = torch.randn(length, 6), torch.randn(2, length, length).softmax(-1)
    view = PromptView(hidden, torch.arange(n), n, 0.57, Made(rows, torch.randn(2, length, 3)))
    kept = tangovlm.method(name, exact=False, **params)(view).indices
    assert len(kept) == {"pyramiddrop": 170, "dart": 2 + 4 * int(300 * 0.57 / 4)}[name]
