"""From one retention to cuts: layers, ratios, pairs, and what cannot be."""

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tangovlm
from tangovlm import budget
from tangovlm.errors import InputError, MethodError
from tangovlm.methods import build
from tangovlm.methods.build import Pair, plan
from tangovlm.methods.common.base import PreLLMMethod
from tangovlm.methods.common.selection import keep_only
from tangovlm.methods.in_llm.common.base import InLLMMethod
from tangovlm.tokens import Selection, VideoTokens

NAMES = sorted(name for name, cls in tangovlm.methods().items() if cls.stage == "in-llm")
# The retention of the others is not the mean over the layers, and no pair has them.
BY_MEAN = sorted(name for name in NAMES if getattr(tangovlm.methods()[name], "in_pairs", True))


def mean(cuts: Any, layers: int, before: float = 1.0) -> float:
    return before * float(sum(budget.kept_per_layer(cuts, layers)) / layers)


def test_all_are_registered() -> None:
    assert NAMES == ["dart", "fastv", "flexselect", "holitom-merge", "pyramiddrop", "sparsevlm", "tango-fastv"]


def test_which_methods_read_the_question() -> None:
    assert all(cls.reads_question for name, cls in tangovlm.methods().items() if name in NAMES)
    assert not tangovlm.Tango().reads_question
    assert tangovlm.method("tango+fastv").reads_question


@dataclass(frozen=True)
class HalfAsContentAllows(PreLLMMethod):
    """Keeps half of its budget if it is adaptive."""

    name: ClassVar[str] = "half-as-content-allows"
    adaptive_fields: ClassVar[Mapping[str, Any]] = {"exact": False, "half": True}

    half: bool = False

    @property
    def adaptive(self) -> bool:
        return self.half

    def reduce(self, tokens: VideoTokens, count: int) -> Selection:
        return keep_only(tokens, torch.arange(count // 2 if self.half else count))


def test_adaptive_counts_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MethodError, match="method 'tango' keeps a fixed number of tokens: adaptive counts"):
        tangovlm.method("tango", adaptive=True)
    registered = {**tangovlm.methods(), HalfAsContentAllows.name: HalfAsContentAllows}
    monkeypatch.setattr(build, "methods", lambda: registered)
    plain, chosen = (tangovlm.method(HalfAsContentAllows.name, adaptive=adaptive) for adaptive in (False, True))
    assert (plain.adaptive, chosen.adaptive, chosen.half, chosen.exact) == (False, True, True, False)
    assert not tangovlm.method(HalfAsContentAllows.name, adaptive=True, half=False).half
    pair = tangovlm.method(f"{HalfAsContentAllows.name}+fastv", adaptive=True)
    assert pair.adaptive and pair.before.half
    assert not tangovlm.method("tango+fastv").adaptive


def test_an_adaptive_method_with_retention_1_is_not_the_identity() -> None:
    tokens = VideoTokens(torch.randn(2, 2, 2, 8, generator=torch.Generator().manual_seed(0)))
    whole, half = HalfAsContentAllows(retention=1.0), HalfAsContentAllows(retention=1.0, exact=False, half=True)
    assert plan(whole, 4).before is None and plan(half, 4).before is half
    assert [method(tokens).indices.numel() for method in (whole, half)] == [8, 4]


def test_the_papers_settings() -> None:
    assert tangovlm.method("fastv").cuts(28) == ((2, 0.5),)
    assert tangovlm.method("tango-fastv").cuts(28) == ((18, 0.5),)
    assert plan(tangovlm.method("pyramiddrop"), 28).retention == pytest.approx(0.518, abs=1e-3)
    # 2 of 28 layers are whole: (2.8 - 2) / 26 is left of the others.
    (cut,) = tangovlm.method("fastv", retention=0.1).cuts(28)
    assert (cut.layer, round(cut.keep, 4), budget.count(cut.keep, 6272)) == (2, 0.0308, 193)
    solved = plan(tangovlm.method("tango+tango-fastv", retention=0.10), 28)
    assert round(solved.before.retention, 4) == 0.1217
    assert budget.count(solved.before.retention, 6272) == 764
    assert solved.cuts == ((18, 0.5),)


@pytest.mark.parametrize("name", NAMES)
def test_layers_are_scaled(name: str) -> None:
    method = tangovlm.method(name)
    assert plan(method, 28).notes == ()
    for layers in (2, 3, 4, 16, 32, 80):
        cuts = method.cuts(layers)
        assert all(1 <= cut.layer < layers for cut in cuts)
        assert [cut.layer for cut in cuts] == sorted({cut.layer for cut in cuts})
        assert cuts[-1].keep == method.paper_cuts[-1].keep
        (note,) = plan(method, layers).notes
        assert f"of {layers}" in note
    with pytest.raises(MethodError, match="between layers"):
        method.cuts(1)


@settings(max_examples=60)
@given(name=st.sampled_from(BY_MEAN), layers=st.integers(2, 60), share=st.floats(0.001, 1))
def test_eq_1_is_solved_or_refused(name: str, layers: int, share: float) -> None:
    first = tangovlm.method(name).cuts(layers)[0].layer
    retention = round(first / layers + (1 - first / layers) * share, 6)
    cuts = tangovlm.method(name, retention=retention).cuts(layers)
    assert mean(cuts, layers) == pytest.approx(retention, abs=1e-6)
    assert all(after.keep <= before.keep for before, after in itertools.pairwise(cuts))
    if first > 1 or layers > 2:
        with pytest.raises(InputError, match=rf"{name}.*{first} of {layers} layers.*smallest"):
            tangovlm.method(name, retention=first / layers * 0.99).cuts(layers)


@settings(max_examples=60)
@given(name=st.sampled_from(BY_MEAN), layers=st.integers(2, 60), retention=st.floats(0.001, 1))
def test_pairs_solve_eq_1(name: str, layers: int, retention: float) -> None:
    inside = tangovlm.method(name)
    most = mean(inside.cuts(layers), layers)
    pair = Pair(tangovlm.Tango(), inside, retention)
    if most < retention < 1:
        with pytest.raises(InputError, match="at most"):
            plan(pair, layers)
    else:
        solved = plan(pair, layers)
        before = 1.0 if solved.before is None else solved.before.retention
        assert mean(solved.cuts, layers, before) == pytest.approx(retention, rel=1e-9)
        assert solved.name == f"tango+{name}"


def test_a_pair_is_made_of_two_kinds() -> None:
    fastv: InLLMMethod = tangovlm.method("fastv")
    for before, inside in (
        (fastv, fastv),
        (tangovlm.Tango(), tangovlm.Tango()),
        (tangovlm.Tango, fastv),
        (print, fastv),
    ):
        with pytest.raises(MethodError, match="a pair needs a method"):
            Pair(before, inside)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="retention"):
        Pair(tangovlm.Tango(), fastv, retention=1.5)
    pair = tangovlm.method("tango+fastv", retention=0.2)
    assert pair == Pair(tangovlm.Tango(), fastv, 0.2)
    assert (pair.name, pair.needs, pair.signal) == ("tango+fastv", tangovlm.Tango().needs, "p-attn")
    assert plan(Pair(tangovlm.Tango(), fastv, 1.0), 28).before is None
    # What the part inside keeps may itself come from a retention, of the tokens that enter.
    inner = plan(Pair(tangovlm.Tango(), tangovlm.method("fastv", retention=0.5), 0.1), 28)
    assert inner.before is not None
    assert inner.before.retention == pytest.approx(0.2)


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("fastv", {"layer": 0}, "layer must be an integer"),
    ("fastv", {"keep_ratio": 0}, r"keep_ratio must be a finite number in \(0, 1\], not 0"),
    ("fastv", {"keep_ratio": 1.5}, "keep_ratio must be a finite number"),
    ("fastv", {"retention": 0.5, "keep_ratio": 0.5}, "not both"),
    ("fastv", {"retention": 0}, "retention must be a number"),
    ("fastv", {"exact": 1}, "exact must be True or False"),
    ("fastv", {"ratios": (0.5,)}, "did you mean 'keep_ratio'|has no parameter 'ratios'"),
    ("tango-fastv", {"anchor_weight": 2}, "anchor_weight"),
    ("dart", {"visual_pivots": 0}, "visual_pivots"),
    ("pyramiddrop", {"layers": (3, 3)}, "layers must ascend"),
    ("pyramiddrop", {"layers": ()}, "layers must be a tuple"),
    ("pyramiddrop", {"layers": (3, True)}, "layers must be an integer"),
    ("pyramiddrop", {"ratios": (0.2, 0.5)}, "must not rise"),
    ("pyramiddrop", {"ratios": (0.5,), "retention": 0.5}, "not both"),
    ("sparsevlm", {"recycle": None}, "recycle must be True or False"),
    ("tango+fastv", {"layer": 2}, "takes retention only"),
    ("tango+tango", {}, "a pair needs a method inside"),
    ("fastv+tango", {}, "a pair needs a method inside"),
    ("tango+fatsv", {}, "did you mean 'fastv'"),
    ("holytom-merge", {}, "did you mean 'holitom-merge'"),
]


@pytest.mark.parametrize(("name", "params", "message"), BAD)
def test_mistakes(name: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(tangovlm.TangoError, match=message):
        tangovlm.method(name, **params)


def test_layers_that_a_model_has_not() -> None:
    with pytest.raises(MethodError, match="before layer 28: choose 1 to 27"):
        tangovlm.method("fastv", layer=28).cuts(28)
    with pytest.raises(MethodError, match="2 layers and 3 ratios"):
        tangovlm.method("pyramiddrop", layers=[2, 4]).cuts(28)
    assert tangovlm.method("pyramiddrop", ratios=[1.0, 0.5, 0.5]).cuts(28) == ((16, 0.5), (24, 0.5))
    assert tangovlm.method("fastv", keep_ratio=1.0).cuts(28) == ()


@pytest.mark.parametrize(("name", "layers"), [("pyramiddrop", 28), ("sparsevlm", 28), ("fastv", 4), ("fastv", 3)])
def test_the_bound_that_a_refusal_names_is_accepted(name: str, layers: int) -> None:
    with pytest.raises(InputError) as refused:
        plan(tangovlm.method(name, retention=0.01), layers)
    smallest = float(str(refused.value).rsplit(" ", 1)[1])
    assert plan(tangovlm.method(name, retention=smallest), layers).retention == smallest
    with pytest.raises(InputError) as refused:
        plan(tangovlm.method(f"tango+{name}", retention=0.999), layers)
    largest = float(re.findall(r"at most ([\d.]+)", str(refused.value))[0])
    assert plan(tangovlm.method(f"tango+{name}", retention=largest), layers).retention == largest
