"""FlexSelect: scores against plain loops, counts of groups, and what is refused."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import tangovlm
from tangovlm import budget
from tangovlm.errors import InputError, MethodError
from tangovlm.methods.build import Pair, is_identity, plan
from tangovlm.methods.in_llm.common.view import PromptView
from tangovlm.session.in_llm import attention
from tangovlm.session.in_llm.attention import LayerProbe

HEADS, GROUPS, SIZE = 4, 2, 8


def flexselect(**params: Any) -> Any:
    return tangovlm.method("flexselect", **params)


def random_view(before: int, visual: int, newlines: int, after: int, seed: int = 0) -> PromptView:
    """A prompt whose queries and keys are random; `newlines` features of the video follow its visual tokens."""
    length = before + visual + newlines + after
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(HEADS, length, SIZE, generator=generator) * 2
    keys = torch.randn(GROUPS, length, SIZE, generator=generator)
    cos, sin = torch.ones(length, SIZE), torch.zeros(length, SIZE)
    probe = LayerProbe(
        lambda places: queries[:, places], lambda: keys, cos, sin, SIZE**-0.5, lambda: None, lambda states: states
    )
    hidden = torch.randn(length, 6, generator=generator)
    return PromptView(hidden, torch.arange(before, before + visual), visual, 0.3, probe, trailing=after)


def loop_scores(view: PromptView, reduce: str, after: int) -> list[float]:
    """The scores by the text of the specification, in float64."""
    assert isinstance(view.probe, LayerProbe)
    length = len(view.hidden)
    queries = view.probe.query(torch.arange(length)).double().tolist()
    keys = view.probe.key().double().tolist()
    found: dict[int, list[float]] = {int(place): [] for place in view.visual}
    for head in range(HEADS):
        own = keys[head // (HEADS // GROUPS)]
        for row in range(length - after, length):
            logits = [
                sum(q * k for q, k in zip(queries[head][row], own[column], strict=True)) / math.sqrt(SIZE)
                for column in range(row + 1)
            ]
            total = sum(math.exp(logit - max(logits)) for logit in logits)
            for place, weights in found.items():
                weights.append(math.exp(logits[place] - max(logits)) / total)
    return [max(weights) if reduce == "max" else sum(weights) / len(weights) for weights in found.values()]


@pytest.mark.parametrize("newlines", [0, 1])
@pytest.mark.parametrize("reduce", ["max", "mean"])
def test_scores_and_choice(reduce: str, newlines: int) -> None:
    view, pruner = random_view(3, 20, newlines, 5), flexselect(reduce=reduce, retention=0.3)
    expected = loop_scores(view, reduce, 5)
    torch.testing.assert_close(pruner.scores(view), torch.tensor(expected), atol=1e-6, rtol=1e-5)
    best = sorted(range(20), key=lambda place: -expected[place])[:6]
    step = pruner(view)
    assert step.indices.tolist() == sorted(best)
    assert torch.equal(step.values, view.hidden[view.visual[step.indices]])


@pytest.mark.parametrize("reduce", ["max", "mean"])
def test_chunks_of_rows_give_the_same_scores(reduce: str, monkeypatch: pytest.MonkeyPatch) -> None:
    view, pruner = random_view(2, 30, 1, 13), flexselect(reduce=reduce)
    whole = pruner.scores(view)
    sizes: list[int] = []

    def chunks(probe: LayerProbe, queries: Tensor) -> Iterator[Tensor]:
        for part in LayerProbe.attention_chunks(probe, queries):
            sizes.append(part.numel())
            yield part

    class Watched(LayerProbe):
        def attention_chunks(self, queries: Tensor) -> Iterator[Tensor]:
            return chunks(self, queries)

    assert isinstance(view.probe, LayerProbe)
    watched = Watched(**vars(view.probe))
    for limit in (1, HEADS * 46 * 3 + 5):
        monkeypatch.setattr(attention, "CHUNK_WEIGHTS", limit)
        sizes.clear()
        again = pruner.scores(PromptView(view.hidden, view.visual, 30, 0.3, watched, trailing=13))
        torch.testing.assert_close(again, whole, atol=1e-7, rtol=1e-6)
        assert len(sizes) > 4
        assert max(sizes) <= max(limit, HEADS * 46)


def test_no_text_after_the_video() -> None:
    with pytest.raises(InputError, match="ranks visual tokens by the text after the video, but there is none"):
        flexselect()(random_view(4, 9, 1, 0))
    # Everything is kept: nothing is ranked.
    assert flexselect(token_budget=9)(random_view(4, 9, 1, 0)).indices.tolist() == list(range(9))


@given(
    sizes=st.lists(st.integers(1, 400), min_size=1, max_size=12),
    retention=st.floats(0.001, 1),
    token_budget=st.none() | st.integers(1, 5000),
)
def test_exact_counts(sizes: list[int], retention: float, token_budget: int | None) -> None:
    total = sum(sizes)
    wanted = budget.count(retention, total) if token_budget is None else min(token_budget, total)
    counts = flexselect(retention=retention, token_budget=token_budget).counts(sizes)
    assert sum(counts) == wanted
    assert all(0 <= count <= size for count, size in zip(counts, sizes, strict=True))
    assert all(abs(count - wanted * size / total) <= 1 + 1e-9 for count, size in zip(counts, sizes, strict=True))


@given(sizes=st.lists(st.integers(1, 400), min_size=1, max_size=12), token_budget=st.integers(1, 5000))
def test_counts_of_the_release(sizes: list[int], token_budget: int) -> None:
    pruner = flexselect(exact=False, token_budget=token_budget)
    if token_budget >= sum(sizes):
        assert pruner.counts(sizes) == sizes
    elif token_budget < len(sizes):
        with pytest.raises(InputError, match=f"a budget of {token_budget} tokens is less than one for each of"):
            pruner.counts(sizes)
    else:
        assert pruner.counts(sizes) == [min(size, token_budget // len(sizes)) for size in sizes]


def test_groups_of_frames() -> None:
    pruner = flexselect()
    assert [pruner.groups(frames) for frames in (1, 64, 65, 128, 129, 512)] == [0, 0, 2, 2, 3, 8]
    assert [flexselect(layer=0).groups(frames) for frames in (1, 64, 65)] == [1, 1, 2]
    assert flexselect(frames_per_group=1).groups(5) == 5


def test_layers_are_scaled_from_28() -> None:
    assert [flexselect().cuts(layers)[0].layer for layers in (28, 4, 12, 2, 80)] == [19, 3, 8, 1, 54]
    assert flexselect(layer=0).cuts(4) == ((0, 0.0625),)
    assert flexselect(layer=3, token_budget=7).cuts(4) == ((3, 1.0),)
    with pytest.raises(MethodError, match="the attention of layer 4: choose 0 to 3"):
        flexselect(layer=4).cuts(4)
    (note,) = plan(flexselect(), 4).notes
    assert note == "flexselect: the paper's layer 19 of 28 became 3 of 4"
    assert plan(flexselect(layer=2), 4).notes == ()


def test_the_retention_is_that_of_the_remaining_tokens() -> None:
    planned = plan(flexselect(retention=0.1), 28)
    assert (planned.retention, planned.retention_for(900), planned.cuts) == (0.1, 0.1, ((19, 0.1),))
    assert plan(flexselect(token_budget=90), 28).retention_for(900) == 0.1
    assert plan(flexselect(token_budget=90), 28).retention_for(30) == 1.0
    assert plan(flexselect(retention=1.0), 28).inside is None
    assert is_identity(flexselect(retention=1.0))
    assert not is_identity(flexselect(retention=1.0, token_budget=5))
    assert flexselect().reads_question


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"retention": 0}, "retention must be a number"),
        ({"retention": None}, "retention must be a number"),
        ({"exact": 1}, "exact must be True or False"),
        ({"layer": -1}, "layer must be an integer >= 0"),
        ({"layer": 1.0}, "layer must be an integer >= 0"),
        ({"reduce": "argmax"}, "reduce must be one of max, mean, not 'argmax'"),
        ({"token_budget": 0}, "token_budget must be an integer >= 1"),
        ({"frames_per_group": 0}, "frames_per_group must be an integer >= 1"),
        ({"keep_ratio": 0.5}, "has no parameter 'keep_ratio'"),
    ],
)
def test_mistakes(params: dict[str, Any], message: str) -> None:
    with pytest.raises(tangovlm.TangoError, match=message):
        flexselect(**params)


def test_no_pair_has_it() -> None:
    for build in (lambda: tangovlm.method("tango+flexselect"), lambda: Pair(tangovlm.Tango(), flexselect())):
        with pytest.raises(MethodError, match="a pair cannot have 'flexselect' second"):
            build()
    with pytest.raises(MethodError, match="a pair needs a method before the model such as tango first"):
        tangovlm.method("flexselect+fastv")
