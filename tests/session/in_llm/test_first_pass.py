"""A first pass over groups of frames equals released code, and a reference without hooks, for every family."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2Model

import tangovlm
from tangovlm import budget
from tangovlm.errors import InputError, MethodError
from tangovlm.methods.in_llm.flexselect import FlexSelect
from tangovlm.models.common.layout import FeatureLayout, Grid
from tangovlm.models.common.transformers_compat import Signature
from tangovlm.selfcheck import twins
from tangovlm.selfcheck.twins.common.base import Twin
from tangovlm.selfcheck.twins.common.groups import Chosen, choose_in_groups
from tangovlm.selfcheck.twins.common.parts import PromptParts, RandomWords, TokenIds, Video
from tangovlm.selfcheck.twins.llava_onevision import LlavaOnevisionTwin
from tangovlm.session.in_llm.first_pass import FirstPass
from tests.golden.cases import TOLERANCE, case_params

FRAMES, NEW, LAYERS = 10, 3, 3
ROW: PromptParts = (RandomWords(3, 1), Video(FRAMES, 2), RandomWords(5, 3))
OTHER: PromptParts = (RandomWords(7, 4), Video(FRAMES, 5), RandomWords(4, 6))
TEXT: PromptParts = (RandomWords(6, 7),)
GREEDY: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False}
KEEP: dict[str, Any] = GREEDY | {"return_dict_in_generate": True, "output_logits": True}
FAMILIES = [name for name in twins.available() if not name.startswith(("gemma", "glm", "qwen3", "minicpm"))]


def flexselect(**params: Any) -> FlexSelect:
    pruner: FlexSelect = tangovlm.method("flexselect", **params)
    return pruner


# --- released code ----------------------------------------------------------------------------------------------------


class Plain(FeatureLayout):
    def grids(self, *args: Any, **kwargs: Any) -> list[Grid]:
        raise NotImplementedError


@pytest.mark.parametrize("path", case_params(("flexselect",)))
def test_golden(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with np.load(path) as file:
        case = {name: torch.from_numpy(file[name]) if file[name].ndim else str(file[name]) for name in file.files}
    info, params = json.loads(case["info"]), json.loads(case["params"])
    lm = Qwen2Model(Qwen2Config(**info["config"])).eval()
    weights = {name.removeprefix("model."): value.float() for name, value in case.items() if "layers" in name}
    assert weights and not lm.load_state_dict(weights, strict=False).unexpected_keys
    start, length, per_frame = (info["call"][name] for name in ("visual_start", "visual_length", "tokens_per_frame"))
    grid = Grid(length // per_frame, 1, per_frame)
    embeds = case["hidden"].float()
    video = torch.full((1, len(embeds)), -1)
    video[0, start : start + length] = 0
    family: Any = SimpleNamespace(decoder=lm, name="qwen2", layout=None)
    family.layout = Plain(family)
    pruner = flexselect(exact=False, **params)
    if pruner.groups(grid.frames) == 0:
        # One group would be pruned between the layers; the first pass has the same scores.
        monkeypatch.setattr(FlexSelect, "groups", lambda *_: 1)
    found: list[Tensor] = []
    scores = FlexSelect.scores
    monkeypatch.setattr(FlexSelect, "scores", lambda *args: found.append(scores(*args)) or found[-1])
    first = FirstPass(family, pruner, pruner.cuts(4)[0].layer, Signature(lm.layers[0].forward, "a layer", ()))
    choice = first.choose(embeds[None], torch.ones(1, len(embeds), dtype=torch.bool), video, [grid], None, 0)[0]
    assert [count // per_frame for count in choice.groups] == case["group_sizes"].tolist()
    assert choice.selection.indices.tolist() == case["kept_indices"].tolist()
    kept = embeds[start : start + length][choice.selection.indices]
    torch.testing.assert_close(kept, case["kept_features"], atol=TOLERANCE, rtol=0)
    assert len(choice.dropped) == length - len(kept)
    together = torch.empty(length).view(grid.frames, per_frame)
    for number, part in enumerate(found):
        together[number :: len(found)] = part.view(-1, per_frame)
    torch.testing.assert_close(together.flatten(), case["scores"], atol=1e-5, rtol=1e-4)


# --- a reference without hooks ----------------------------------------------------------------------------------------


def reference_choice(twin: Twin, row: PromptParts, pruner: FlexSelect) -> Chosen:
    layer = pruner.cuts(LAYERS)[0].layer
    return choose_in_groups(twin, row, layer, pruner.retention or 1, pruner.frames_per_group, pruner.reduce)


def attach(twin: Twin, pruner: Any, **options: Any) -> Any:
    return tangovlm.attach(twin.model, pruner, timestamps=torch.arange(FRAMES, dtype=torch.float64), **options)


def check(output: Any, expected: list[tuple[list[int], Tensor]]) -> None:
    torch.testing.assert_close(output.logits[0], torch.stack([first for _, first in expected]), atol=1e-4, rtol=0)
    assert output.sequences[:, -NEW:].tolist() == [tokens for tokens, _ in expected]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(name: str) -> None:
    twin = twins.load(name)(layers=LAYERS)
    pruner = flexselect(layer=2, retention=0.4, frames_per_group=3)
    inputs = twin.inputs([ROW])
    with attach(twin, pruner, record=True) as session:
        output = twin.model.generate(**inputs, **KEEP)
    chosen = reference_choice(twin, ROW, pruner)
    check(output, [twin.reference(ROW, chosen, NEW)])
    (report,), (video,) = session.report.videos, session.videos
    frames, before = len(report.first_pass_groups), report.tokens_before
    assert frames > 1
    assert report.tokens_after == len(chosen.places) == budget.count(0.4, before)
    assert tuple(video.selection.indices.tolist()) == chosen.places
    assert report.tokens_per_layer == (report.tokens_after,) * LAYERS
    assert sum(report.first_pass_groups) == before
    assert report.first_pass_layers == 2
    assert report.equivalent_retention == pytest.approx(2 / LAYERS + report.tokens_after / before)
    assert f"first pass: {before} tokens, groups: {frames}, layers: 2" in str(report)
    assert report.retention == 0.4
    whole = twin.encode_part(ROW[1], chosen)
    assert whole.kept is not None
    assert report.newlines_after == int(whole.kept.sum()) - report.tokens_after
    assert report.timings_ms["prune"] == session.report.timings_ms["prune"] > 0


@pytest.fixture(scope="module")
def twin() -> LlavaOnevisionTwin:
    made = LlavaOnevisionTwin(layers=LAYERS)
    # On first use, transformers itself installs hooks for hidden states.
    made.model.generate(**made.inputs([TEXT]), **GREEDY)
    return made


PRUNER = flexselect(layer=1, retention=0.3, frames_per_group=4)


@pytest.mark.parametrize("params", [{"reduce": "mean"}, {"layer": 0}, {"layer": 0, "frames_per_group": 64}])
def test_settings(twin: LlavaOnevisionTwin, params: dict[str, Any]) -> None:
    pruner = flexselect(**{"layer": 1, "retention": 0.3, "frames_per_group": 4} | params)
    with attach(twin, pruner) as session:
        output = twin.model.generate(**twin.inputs([ROW]), **KEEP)
    check(output, [twin.reference(ROW, reference_choice(twin, ROW, pruner), NEW)])
    (report,) = session.report.videos
    assert report.first_pass_layers == params.get("layer", 1)


@pytest.mark.parametrize("positions", ["contiguous", "original"])
def test_padded_batch_and_beams(twin: LlavaOnevisionTwin, positions: str) -> None:
    rows = [ROW, OTHER, TEXT]
    choices = [reference_choice(twin, row, PRUNER) for row in rows[:2]]
    expected = [
        twin.reference(row, choice, NEW, positions == "original")
        for row, choice in zip(rows, [*choices, None], strict=True)
    ]
    with attach(twin, PRUNER, positions=positions) as session:
        check(twin.model.generate(**twin.inputs(rows), **KEEP), expected)
        static = twin.model.generate(**twin.inputs(rows), **KEEP, cache_implementation="static")
        check(static, expected)
        loud = twin.model(**twin.inputs(rows[:1]), output_hidden_states=True, use_cache=False)
        twin.model.generate(**twin.inputs(rows), **GREEDY, num_beams=2)
    assert [len(states[0]) for states in loud.hidden_states] == [loud.logits.shape[1]] * (LAYERS + 1)
    torch.testing.assert_close(loud.logits[0, -1], expected[0][1], atol=1e-4, rtol=0)
    kept = [report.tokens_after for report in session.report.videos]
    assert set(kept) == {budget.count(0.3, FRAMES * 9)}
    assert all(len(report.tokens_per_layer) == LAYERS for report in session.report.videos)


def test_a_second_turn_of_text(twin: LlavaOnevisionTwin) -> None:
    inputs, question = twin.inputs([ROW, OTHER]), RandomWords(5, 31)
    with attach(twin, PRUNER):
        first = twin.model.generate(**inputs, **KEEP)
        again = twin.next_turn(inputs, first.sequences, question)
        second = twin.model.generate(**again, **GREEDY, past_key_values=first.past_key_values)
    for row, said, tokens in zip((ROW, OTHER), first.sequences[:, -NEW:], second[:, -NEW:], strict=True):
        choice = reference_choice(twin, row, PRUNER)
        longer = (*row, TokenIds(tuple(said.tolist())), question)
        assert tokens.tolist() == twin.reference(longer, choice, NEW)[0]


def test_prompts_with_and_without_a_first_pass() -> None:
    """Each prompt of a batch is pruned as it would be alone: a short video between the layers."""
    host = twins.load("qwen2_5_vl")(layers=LAYERS)
    long, short = (RandomWords(3, 1), Video(FRAMES, 2), RandomWords(5, 3)), (Video(4, 5), RandomWords(4, 6))
    pruner = flexselect(layer=2, retention=0.4, frames_per_group=3)
    with tangovlm.attach(host.model, pruner) as session:
        output = host.model.generate(**host.inputs([short, long]), **KEEP)
    tokens, first, _ = host.inside(short, pruner, NEW)
    check(output, [(tokens, first), host.reference(long, reference_choice(host, long, pruner), NEW)])
    one, two = session.report.videos
    assert (one.tokens_before, one.tokens_after, one.tokens_per_layer) == (18, 18, (18, 18, 7))
    assert (two.tokens_before, two.tokens_after, two.tokens_per_layer) == (45, 18, (18, 18, 18))
    assert (one.first_pass_groups, two.first_pass_groups) == ((), (27, 18))


def test_a_budget_that_covers_everything_is_the_stock_model(twin: LlavaOnevisionTwin) -> None:
    inputs = twin.inputs([ROW])
    plain = twin.model.generate(**inputs, **KEEP)
    for pruner in (flexselect(token_budget=9999, frames_per_group=4), flexselect(retention=1.0, frames_per_group=4)):
        with attach(twin, pruner) as session:
            output = twin.model.generate(**inputs, **KEEP)
        assert torch.equal(output.sequences, plain.sequences)
        assert all(torch.equal(one, other) for one, other in zip(output.logits, plain.logits, strict=True))
        (report,) = session.report.videos
        assert (report.tokens_after, report.first_pass_groups, report.retention) == (FRAMES * 9, (), 1.0)


def test_one_frame(twin: LlavaOnevisionTwin) -> None:
    row = (RandomWords(3, 1), Video(1, 2), RandomWords(5, 3))
    pruner = flexselect(layer=2, retention=0.4)
    with tangovlm.attach(twin.model, pruner) as session:
        output = twin.model.generate(**twin.inputs([row]), **KEEP)
    check(output, [twin.inside(row, pruner, NEW)[:2]])
    assert session.report.videos[0].tokens_per_layer == (9, 9, 4)


def test_a_video_longer_than_the_context(twin: LlavaOnevisionTwin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a group and the chosen tokens have to fit."""
    expected = twin.reference(ROW, reference_choice(twin, ROW, PRUNER), NEW)
    config, inputs = twin.model.get_decoder().config, twin.inputs([ROW])
    monkeypatch.setattr(config, "max_position_embeddings", 50)
    with attach(twin, PRUNER):
        check(twin.model.generate(**inputs, **KEEP), [expected])
    refused = [
        (
            PRUNER,
            40,
            "a group of 36 visual tokens and its text exceed the context of the model: lower frames_per_group",
        ),
        (flexselect(layer=1, retention=0.7, frames_per_group=2), 50, "the prompt has 72 tokens after pruning, .* 50"),
        (
            flexselect(layer=1, retention=0.3),
            80,
            "the prompt has 99 tokens, the model's context 80: give at most 7 frames of this size",
        ),
    ]
    calls, stock = [], twin.model.model.get_video_features

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return stock(*args, **kwargs)

    counted.__wrapped__ = stock  # type: ignore[attr-defined]
    monkeypatch.setattr(twin.model.model, "get_video_features", counted)
    for pruner, limit, message in refused:
        monkeypatch.setattr(config, "max_position_embeddings", limit)
        with pytest.raises(InputError, match=message), attach(twin, pruner):
            twin.model.generate(**inputs, **KEEP)
    assert not calls
    monkeypatch.setattr(config, "max_position_embeddings", 80)
    seven = twin.inputs([(*ROW[:1], Video(7, 2), *ROW[2:])])
    with attach(twin, flexselect(layer=1, retention=0.3)):
        twin.model.generate(**seven, **KEEP)


def test_no_text_after_a_video_of_several_axes() -> None:
    twin = twins.load("qwen2_vl")()
    inputs = twin.inputs([ROW[:2]])
    last = int((inputs["input_ids"] == twin.model.config.video_token_id).nonzero()[-1, 1]) + 1
    inputs = {
        name: value[:, :last] if value.shape == inputs["input_ids"].shape else value for name, value in inputs.items()
    }
    with attach(twin, PRUNER), pytest.raises(InputError, match="there is none: put the question after the video"):
        twin.model.generate(**inputs, **GREEDY)


def test_what_is_refused(twin: LlavaOnevisionTwin) -> None:
    two = (*ROW, Video(FRAMES, 8), RandomWords(2, 9))
    with attach(twin, PRUNER):
        with pytest.raises(InputError, match="does not support a prompt with 2 videos if a first pass"):
            twin.model.generate(**twin.inputs([two]), **GREEDY)
        with pytest.raises(InputError, match="there is none: put the question after the video"):
            twin.model.generate(**twin.inputs([ROW[:2]]), **GREEDY)
        with pytest.raises(InputError, match="use_cache: pruning inside the model needs the cache"):
            twin.model.generate(**twin.inputs([ROW]), **GREEDY, use_cache=False)
        with pytest.raises(InputError, match="needs input_ids"):
            twin.model(inputs_embeds=torch.randn(1, 4, 48))
        first = twin.model.generate(**twin.inputs([TEXT]), **KEEP)
        inputs = twin.inputs([(*TEXT, RandomWords(NEW, 1), *ROW)])
        inputs["input_ids"][:, : first.sequences.shape[1]] = first.sequences
        with pytest.raises(InputError, match="does not support a video that follows earlier turns in a cache"):
            twin.model.generate(**inputs, **GREEDY, past_key_values=first.past_key_values)
    small = flexselect(exact=False, token_budget=2, frames_per_group=4)
    with (
        pytest.raises(InputError, match="a budget of 2 tokens is less than one for each of 3 groups"),
        attach(twin, small),
    ):
        twin.model.generate(**twin.inputs([ROW]), **GREEDY)
    with pytest.raises(MethodError, match="newlines='counted'"):
        attach(twin, PRUNER, newlines="counted").__enter__()
