"""Families whose encoder receives one sequence of patches (Qwen), against computations in plain loops."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

import tangovlm
from tangovlm.errors import ModelError
from tangovlm.models.common.patch_sequence import PatchSequenceFamily
from tangovlm.models.common.signals import Signals
from tangovlm.registry import family_for
from tangovlm.selfcheck.twins import available, twins
from tangovlm.selfcheck.twins.common.base import Twin
from tangovlm.selfcheck.twins.common.norms import Norms
from tangovlm.selfcheck.twins.common.parts import PromptParts, RandomWords, Video
from tangovlm.selfcheck.twins.qwen2_5_vl import MERGE
from tests.session.test_generate_families import NEW, check
from tests.support.recording import recorded

NAMES = [name for name in available() if name in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen2_5_omni", "qwen3_omni")]
NEEDS = frozenset({"saliency", "keys", "frame_features"})
UNEVEN = (Video(4, 1), Video(6, 2, wide=True))


@pytest.fixture(scope="module", params=NAMES)
def host(request: pytest.FixtureRequest) -> Twin:
    return twins()[request.param]()


def family_of(host: Twin, **options: Any) -> PatchSequenceFamily:
    return family_for(host.model)(host.model, **options)


@torch.no_grad()
def observed(host: Twin, kind: str, chunk: int | None = None) -> tuple[Signals, Any]:
    family, pixels = family_of(host), host.pixels(UNEVEN)
    arguments = pixels["pixel_values_videos"], pixels["video_grid_thw"]
    with family.signals.observe(NEEDS, kind) as signals:
        output = family.encoding.encode(host.model.model.get_video_features, chunk or 99, *arguments, return_dict=True)
    return signals, output


def by_hand(host: Twin, kind: str) -> list[tuple[Tensor, Tensor]]:
    """Saliency and keys of each step, from the inputs of the last layer, patch by patch, in float64.

    Positions and places of patches come from the order in which the patches of an image are handed over: tokens in
    raster order, the patches of a token side by side.
    """
    visual = host.model.model.visual
    attention, kept = visual.blocks[-1].attn, {}
    hook = attention.register_forward_pre_hook(
        lambda _module, args, kwargs: kept.update(kwargs, hidden=args[0] if args else kwargs["hidden_states"]),
        with_kwargs=True,
    )
    found = []
    for video in UNEVEN:
        pixels, _ = host.patches([video])
        steps, rows, columns = host.thw(video)
        for step in range(steps):
            # A step by itself, so that no border between steps is needed.
            alone = pixels[step * rows * columns : (step + 1) * rows * columns]
            visual(alone, grid_thw=torch.tensor([[1, rows, columns]]))
            found.append(_of_step(host, attention, kept, kind, rows // MERGE, columns // MERGE))
    hook.remove()
    return found


def _of_step(host: Twin, attention: Any, kept: dict[str, Any], kind: str, rows: int, columns: int) -> Any:
    heads = attention.num_heads
    hidden = kept["hidden"]
    made = (
        attention.qkv(hidden) if hasattr(attention, "qkv") else torch.cat([attention.q(hidden), attention.k(hidden)], 1)
    )
    query, key, *_ = made.double().view(len(hidden), -1, heads, hidden.shape[-1] // heads).unbind(1)
    plain = key
    cos, sin = (table.double()[:, None] for table in kept["position_embeddings"])

    def rotated(x: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        return x * cos + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * sin

    query, key = rotated(query), rotated(key)
    tokens = len(query) // MERGE**2
    scores = torch.zeros(tokens, dtype=torch.float64)
    for head in range(heads):
        q, k = query[:, head], key[:, head]
        if kind == "mean-query":
            merged = torch.stack([k[4 * token : 4 * token + 4].mean(0) for token in range(tokens)])
            scores += torch.softmax(merged @ q.mean(0) / q.shape[-1] ** 0.5, dim=0) / heads
        else:
            each = torch.softmax(q @ k.T / q.shape[-1] ** 0.5, dim=1).mean(0) / heads
            scores += torch.stack([each[4 * token : 4 * token + 4].mean() for token in range(tokens)])
    keys = torch.stack([plain[4 * token : 4 * token + 4].mean(dim=(0, 1)) for token in range(tokens)])
    order = _windows(host, rows, columns)
    places = torch.tensor([row * columns + column for row, column in order])
    raster, raster_keys = torch.empty_like(scores), torch.empty_like(keys)
    raster[places], raster_keys[places] = scores, keys
    return raster.view(rows, columns), raster_keys.view(rows, columns, -1)


def _windows(host: Twin, rows: int, columns: int) -> list[tuple[int, int]]:
    """Tokens in the order of the last layer: window by window where the tower has windows, of 2 x 2 tokens here."""
    if host.family not in ("qwen2.5-vl", "qwen2.5-omni"):
        return [(row, column) for row in range(rows) for column in range(columns)]
    return [
        (row, column)
        for top in range(0, rows, 2)
        for left in range(0, columns, 2)
        for row in range(top, min(top + 2, rows))
        for column in range(left, min(left + 2, columns))
    ]


@pytest.mark.parametrize("kind", ["mean-query", "attn"])
def test_signals_of_uneven_videos(host: Twin, kind: str) -> None:
    signals, output = observed(host, kind)
    with torch.no_grad():
        wanted = by_hand(host, kind)
    assert len(signals.saliency) == len(wanted) == 5
    for got, keys, (scores, wanted_keys) in zip(signals.saliency, signals.keys, wanted, strict=True):
        torch.testing.assert_close(got.double(), scores, atol=1e-6, rtol=0)
        torch.testing.assert_close(keys.double(), wanted_keys, atol=1e-5, rtol=0)
        if kind == "mean-query":
            assert float(got.sum()) == pytest.approx(1)
    means = torch.cat(
        [rows.view(-1, size, rows.shape[-1]).mean(1) for rows, size in zip(output.pooler_output, (9, 10), strict=True)]
    )
    torch.testing.assert_close(torch.stack(signals.frame_features), means)


@pytest.mark.parametrize("chunk", [1, 2, 4])
def test_chunks_across_videos(host: Twin, chunk: int) -> None:
    whole, output = observed(host, "mean-query")
    parts, joined = observed(host, "mean-query", chunk)
    for name in ("saliency", "keys", "frame_features"):
        for one, other in zip(getattr(whole, name), getattr(parts, name), strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    for one, other in zip(output.pooler_output, joined.pooler_output, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    for one, other in zip(output.get("deepstack_features") or (), joined.get("deepstack_features") or (), strict=True):
        for rows, other_rows in zip(one, other, strict=True):
            torch.testing.assert_close(rows, other_rows, atol=1e-5, rtol=1e-5)


def test_videos_of_two_shapes_in_a_batch(host: Twin) -> None:
    rows = [(RandomWords(3, 1), UNEVEN[0], RandomWords(5, 3)), (RandomWords(4, 6), UNEVEN[1], RandomWords(2, 7))]
    output = check(host, rows, Norms())
    assert [video.tokens_before for video in output.session.report.videos] == [18, 30]


def test_a_method_for_another_signal_gets_the_mean_query(host: Twin) -> None:
    tokens, session = recorded(host, 4)
    assert any("'p-attn': 'mean-query' is used" in note for note in session.report.notes)
    wanted, _ = recorded(host, 4, saliency="mean-query")
    assert torch.equal(tokens.saliency, wanted.saliency)
    with pytest.raises(
        ModelError, match=r"'p-attn', which the family qwen.* choose another saliency, 'mean-query' or 'attn'"
    ):
        recorded(host, 4, saliency="p-attn")


@pytest.mark.parametrize(
    ("frames", "given", "wanted"),
    [
        (4, [0.0, 1.0, 2.0, 3.0], [0.0, 2.0]),
        (6, [0.0, 1.0, 2.0, 4.0, 8.0, 16.0], [0.0, 2.0, 8.0]),
        (5, [0.0, 1.0, 2.0, 3.0, 4.0], [0.0, 2.0, 4.0]),
        (4, [5.0, 7.5], [5.0, 7.5]),
        (1, [2.5], [2.5]),
    ],
)
@pytest.mark.parametrize("name", [name for name in NAMES if name != "qwen3_vl"] + ["glm4v"])
def test_a_step_has_the_time_of_its_first_frame(
    name: str, frames: int, given: list[float], wanted: list[float]
) -> None:
    """Where GLM writes it, and where the positions of Qwen2.5-VL are."""
    tokens, _ = recorded(twins()[name](), frames, timestamps=given)
    assert tokens.timestamps.tolist() == wanted


# --- positions of continued caches ------------------------------------------------------------------------------------

FIRST: PromptParts = (RandomWords(3, 1), Video(4, 2), RandomWords(5, 3))
SECOND: PromptParts = (RandomWords(2, 60), Video(4, 61), RandomWords(4, 62))


def steps(host: Twin, cache: Any, word: int, new: int, **options: Any) -> list[int]:
    """Tokens generated one after another, from the cache only."""
    said = [word]
    for _ in range(new - 1):
        output = host.model(input_ids=torch.tensor([said[-1:]]), past_key_values=cache, **options)
        said.append(int(output.logits[0, -1].argmax()))
    return said


@torch.no_grad()
def test_generate_from_embeddings(host: Twin) -> None:
    embeds = host.model.get_input_embeddings()(torch.tensor([RandomWords(9, 1).ids]))
    wanted = host.model.generate(inputs_embeds=embeds, max_new_tokens=4, do_sample=False)
    for pruner in (tangovlm.Tango(retention=1.0), Norms()):
        with tangovlm.attach(host.model, pruner):
            assert torch.equal(host.model.generate(inputs_embeds=embeds, max_new_tokens=4, do_sample=False), wanted)


@torch.no_grad()
def test_a_second_video_in_a_loop_by_hand(host: Twin) -> None:
    """Positions go on as those of the stock model do, for which the second turn is text all through."""
    inputs = [host.inputs([row]) for row in (FIRST, SECOND)]
    for part in inputs:
        del part["attention_mask"]
    seen: list[Tensor] = []
    hook = host.model.get_decoder().rotary_emb.register_forward_pre_hook(
        lambda _module, args, kwargs: seen.append(kwargs.get("position_ids", args[-1])), with_kwargs=True
    )
    for pruner in (None, Norms()):
        with nullcontext() if pruner is None else tangovlm.attach(host.model, pruner):
            cache = host.model(**inputs[0], use_cache=True).past_key_values
            output = host.model(**inputs[1], past_key_values=cache)
            host.model(input_ids=torch.tensor([[30]]), past_key_values=output.past_key_values)
    hook.remove()
    stock, ours = seen[1], seen[4]
    kept = torch.isin(stock[0, 0], ours[0, 0])
    assert kept.sum() == ours.shape[-1] < stock.shape[-1]
    assert torch.equal(ours, stock[..., kept])
    assert torch.equal(seen[5], seen[2])


@torch.no_grad()
def test_positions_of_the_caller_and_then_none(host: Twin) -> None:
    """The model has counted nothing itself, or something else."""
    pruner, inputs = Norms(), host.inputs([FIRST])
    positions = host.positions([host.encode_part(part, None) for part in FIRST])[:, None]
    for name in ("mm_token_type_ids", "attention_mask"):
        inputs.pop(name, None)
    wanted = host.reference(FIRST, pruner, NEW)[0]
    for stale in (None, torch.tensor([[77]])):
        host.model.model.rope_deltas = stale
        with tangovlm.attach(host.model, pruner):
            output = host.model(**inputs, position_ids=positions, use_cache=True)
            assert steps(host, output.past_key_values, int(output.logits[0, -1].argmax()), NEW) == wanted


@torch.no_grad()
def test_two_conversations_in_turns(host: Twin) -> None:
    pruner = Norms()
    rows: list[PromptParts] = [FIRST, (RandomWords(9, 70), Video(6, 71), RandomWords(2, 72))]
    wanted = [host.reference(row, pruner, NEW)[0] for row in rows]
    inputs = [host.inputs([row]) for row in rows]
    with tangovlm.attach(host.model, pruner):
        outputs = [host.model(**each, use_cache=True) for each in inputs]
        said = [steps(host, each.past_key_values, int(each.logits[0, -1].argmax()), NEW) for each in outputs]
    assert said == wanted


@torch.no_grad()
def test_a_cache_that_is_cut_before_the_video(host: Twin) -> None:
    """A beginning that several prompts share: the words in front of the video stay, another question comes behind."""
    pruner, other, inputs = Norms(), RandomWords(6, 80), host.inputs([FIRST])
    wanted = host.reference((RandomWords(3, 1), other), pruner, NEW)[0]
    with tangovlm.attach(host.model, pruner):
        cache = host.model(**inputs, use_cache=True).past_key_values
        cache.crop(3 - cache.get_seq_length())
        output = host.model(input_ids=torch.tensor([other.ids]), past_key_values=cache)
        assert steps(host, cache, int(output.logits[0, -1].argmax()), NEW) == wanted
