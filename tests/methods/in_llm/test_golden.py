"""The steps of methods inside the model against released code; see tests/golden/baselines/README.md."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tangovlm import method
from tangovlm.methods.in_llm.common.view import LayerSelection, PromptView
from tangovlm.session.in_llm.attention import LayerProbe
from tests.golden.cases import FOLDER, TOLERANCE


def load(name: str) -> dict[str, Any]:
    with np.load(FOLDER / f"{name}.npz") as file:
        case = {key: file[key] for key in file.files}
    case["params"] = json.loads(str(case["params"]))
    case["call"] = json.loads(str(case["info"]))["call"]
    case["hidden"] = torch.from_numpy(case["hidden"]).float()
    return case


@dataclass
class Recorded:
    """A look at recorded tensors; the recorded hidden states count as normed."""

    attention_rows: Tensor | None = None
    key_states: Tensor | None = None

    def attention(self, queries: Tensor | None = None) -> Tensor:
        assert queries is None
        assert self.attention_rows is not None
        return self.attention_rows[:, None]

    def keys(self) -> Tensor:
        assert self.key_states is not None
        return self.key_states

    def norm(self, hidden: Tensor) -> Tensor:
        return hidden


def view(case: dict[str, Any], ratio: float, probe: Any) -> PromptView:
    call = case["call"]
    visual = torch.arange(call["visual_start"], call["visual_start"] + call["visual_length"])
    return PromptView(case["hidden"], visual, call.get("visual_total", call["visual_length"]), ratio, probe)


def check(case: dict[str, Any], step: LayerSelection) -> None:
    assert step.indices.tolist() == case["kept_indices"].tolist()
    torch.testing.assert_close(step.values, torch.from_numpy(case["kept_features"]), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("file", "name"), [("fastv_1", "fastv"), ("tango_fastv_1", "tango-fastv"), ("holitom_m_1", "holitom-merge")]
)
def test_choice_by_the_last_token(file: str, name: str) -> None:
    case = load(file)
    pruner = method(name, exact=False, **case["params"])
    assert pruner.cuts(28) == ((case["params"]["layer"], 0.5),)
    check(case, pruner(view(case, 0.5, Recorded(torch.from_numpy(case["attention"])))))
    # The library's own rounding keeps one more: 190.5 is rounded up.
    exact = method(name, **case["params"])
    assert exact(view(case, 0.5, Recorded(torch.from_numpy(case["attention"])))).indices.numel() == 191


@pytest.mark.parametrize("file", ["dart_1", "dart_2"])
def test_dart(file: str) -> None:
    case = load(file)
    pruner = method("dart", exact=False, **case["params"])
    seen = view(case, 0.25, Recorded(key_states=torch.from_numpy(case["key_states"]).float()))
    pivots = pruner.pivots(seen)
    recorded = torch.from_numpy(case["pivots"])
    assert set(pivots.tolist()) == set(recorded.tolist())
    if file == "dart_1":
        assert pivots.tolist() == recorded.tolist()
        check(case, pruner(seen))
        order = pruner.choose(seen.hidden, seen, pivots)
        assert case["order"].tolist() == [*(pivots[:4] - 14).tolist(), *order.tolist()]
    chosen = pruner.choose(seen.hidden, seen, recorded)
    visual = recorded[torch.isin(recorded, seen.visual)] - case["call"]["visual_start"]
    assert sorted([*visual.tolist(), *chosen.tolist()]) == case["kept_indices"].tolist()
    assert method("dart", **case["params"])(seen).indices.numel() == 90


def test_pyramiddrop() -> None:
    case = load("pyramiddrop_1")
    call, hidden = case["call"], case["hidden"]
    weights = {name: torch.from_numpy(case[name]).float() for name in ("q_weight", "k_weight", "norm_weight")}
    normed = hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + call["norm_eps"]) * weights["norm_weight"]
    size = hidden.shape[1] // call["heads"]
    angles = torch.arange(len(hidden))[:, None] / call["rope_base"] ** (torch.arange(0, size, 2) / size)
    angles = torch.cat([angles, angles], dim=-1)

    def heads(states: Tensor) -> Tensor:
        return states.unflatten(-1, (-1, size)).transpose(0, 1)

    probe = LayerProbe(
        query=lambda places: heads(normed[places] @ weights["q_weight"].T),
        key=lambda: heads(normed @ weights["k_weight"].T),
        cos=angles.cos(),
        sin=angles.sin(),
        scaling=size**-0.5,
        past=lambda: None,
        final_norm=lambda states: states,
    )
    seen = view(case, case["params"]["ratios"][call["stage"]], probe)
    scores = probe.attention().mean(dim=(0, 1))[seen.visual]
    torch.testing.assert_close(scores, torch.from_numpy(case["scores"]), atol=1e-6, rtol=0)
    assert call["query_row"] == len(hidden) - 1
    check(case, method("pyramiddrop", exact=False, **case["params"])(seen))
