"""Pruning inside a stock model equals the reference without hooks and caches, for every method and way to generate."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import tangovlm
from tangovlm import budget
from tangovlm.errors import InputError
from tangovlm.methods.build import Pair
from tangovlm.selfcheck.twins.common.inside import Prompt, Reference, greedy
from tangovlm.selfcheck.twins.common.norms import Norms
from tangovlm.selfcheck.twins.common.parts import VIDEO
from tangovlm.session.cache_state import CacheState, LayerPositions
from tests.session.test_positions import kept_positions
from tests.support.stock import OLDEST
from tests.support.tiny_models import (
    embed_row,
    make_model,
    make_videos,
    pad_left,
    placeholders,
    select,
    state_of,
    words,
)

FRAMES, NEW, LAYERS = 3, 4, 4
GRID = FRAMES * 16
GREEDY: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False}
KEEP: dict[str, Any] = GREEDY | {"return_dict_in_generate": True, "output_logits": True}

METHODS: dict[str, Any] = {
    "fastv": {"layer": 2, "keep_ratio": 0.4},
    "tango-fastv": {"layer": 1, "keep_ratio": 0.5},
    "holitom-merge": {"layer": 3, "keep_ratio": 0.3},
    "dart": {"layer": 2, "keep_ratio": 0.5},
    "pyramiddrop": {"layers": (1, 2, 3), "ratios": (0.7, 0.4, 0.1)},
    "sparsevlm": {"layers": (1, 3), "ratios": (0.6, 0.25)},
    "flexselect": {"layer": 2, "retention": 0.4},
}


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def model(request: pytest.FixtureRequest) -> Any:
    made = make_model(attention=request.param, layers=LAYERS)
    # On first use, transformers itself installs hooks for hidden states.
    made.generate(**pad_left([words(3, 1)]), **GREEDY)
    return made


@pytest.fixture(scope="module")
def sdpa() -> Any:
    return make_model(layers=LAYERS)


def prompt(model: Any, before: int, after: int, seed: int, videos: int = 1) -> list[int]:
    ids = words(before, seed)
    for number in range(videos):
        ids += [*placeholders(model, FRAMES), *words(after, seed + 100 + number)]
    return ids


def visual_places(row: list[int], kept: int = GRID) -> list[int]:
    """Visual positions of a prompt in which every video has `kept` tokens and its newline."""
    places, place, waiting = [], 0, 0
    for token in row:
        if token == VIDEO and waiting == 0:
            places += range(place, place + kept)
            place, waiting = place + kept + 1, GRID + 1
        waiting = max(0, waiting - 1)
        place += token != VIDEO
    return places


def expected(
    model: Any, pruner: Any, row: list[int], videos: Tensor, before: Any = None, original: bool = False
) -> tuple[list[int], Tensor, list[int]]:
    """The reference of one unpadded prompt: tokens, first logits, length of each layer."""
    before = Norms(1.0) if before is None else before
    selections = [select(model, before, video) for video in videos]
    if before.retention == 1:
        # Keeping everything must not change the features.
        selections = [(whole(model, video), newline) for video, (_, newline) in zip(videos, selections, strict=True)]
    embeds = embed_row(model, row, selections, None)
    visual = visual_places(row, budget.count(before.retention, GRID)) if len(videos) else []
    lm = model.model.language_model
    reference = Reference(lm, pruner.name, {cut.layer: cut.keep for cut in pruner.cuts(LAYERS)})
    start = kept_positions(row, [selection for selection, _ in selections]) if original else None
    trailing = row[::-1].index(VIDEO) if visual else 0
    return greedy(reference, model.lm_head, model.get_input_embeddings().weight, embeds, visual, NEW, start, trailing)


def whole(model: Any, video: Tensor) -> Any:
    with torch.no_grad():
        rows = model.model.get_video_features(video[None], return_dict=True).pooler_output[0]
    slots = torch.arange(GRID)
    return tangovlm.Selection(slots, rows[:GRID], slots.view(FRAMES, 4, 4), (FRAMES,))


def generate(model: Any, inputs: dict[str, Any], pruner: Any, **options: Any) -> Any:
    with tangovlm.attach(model, pruner) as session:
        output = model.generate(**inputs, **KEEP | options)
    output.session = session
    return output


def assert_equal_to(output: Any, inputs: dict[str, Any], wanted: list[Any]) -> None:
    start = inputs["input_ids"].shape[1]
    assert torch.equal(output.sequences[:, :start], inputs["input_ids"])
    assert output.sequences[:, start:].tolist() == [tokens for tokens, *_ in wanted]
    torch.testing.assert_close(output.logits[0], torch.stack([first for _, first, _ in wanted]), atol=1e-4, rtol=0)


def held(cache: Any) -> list[int]:
    return [int(layer.get_seq_length()) for layer in cache.layers]


@pytest.mark.parametrize("name", METHODS)
def test_single_prompt(model: Any, name: str) -> None:
    pruner = tangovlm.method(name, **METHODS[name])
    row, videos = prompt(model, 3, 5, seed=1), make_videos(model, 1, FRAMES)
    inputs = pad_left([row]) | {"pixel_values_videos": videos}
    output = generate(model, inputs, pruner)
    wanted = expected(model, pruner, row, videos)
    assert_equal_to(output, inputs, [wanted])
    promised = [GRID] * LAYERS
    for cut in pruner.cuts(LAYERS):
        promised[cut.layer :] = [budget.count(cut.keep, GRID)] * (LAYERS - cut.layer)
    (report,) = output.session.report.videos
    assert report.tokens_per_layer == tuple(promised)
    assert (report.tokens_before, report.tokens_after, report.method) == (GRID, GRID, name)
    text = len(row) - GRID
    assert wanted[2] == [count + text for count in promised]
    assert held(output.past_key_values) == [count + text + NEW - 1 for count in promised]


@pytest.mark.parametrize("name", METHODS)
def test_left_padded_batch_with_a_text_prompt(sdpa: Any, name: str) -> None:
    pruner = tangovlm.method(name, **METHODS[name])
    rows = [prompt(sdpa, 2, 4, seed=2), prompt(sdpa, 9, 12, seed=3), words(7, seed=5)]
    videos = make_videos(sdpa, 2, FRAMES)
    inputs = pad_left(rows) | {"pixel_values_videos": videos}
    own = [videos[:1], videos[1:], videos[:0]]
    wanted = [expected(sdpa, pruner, row, part) for row, part in zip(rows, own, strict=True)]
    output = generate(sdpa, inputs, pruner)
    assert_equal_to(output, inputs, wanted)
    assert held(output.past_key_values) == [count + NEW - 1 for count in wanted[1][2]]
    assert len({video.tokens_per_layer for video in output.session.report.videos}) == 1


@pytest.mark.parametrize("name", ["fastv", "pyramiddrop", "flexselect"])
def test_two_videos_in_a_prompt_beside_one(model: Any, name: str) -> None:
    pruner = tangovlm.method(name, **METHODS[name])
    rows = [prompt(model, 2, 3, seed=6, videos=2), prompt(model, 5, 4, seed=7)]
    videos = make_videos(model, 3, FRAMES)
    inputs = pad_left(rows) | {"pixel_values_videos": videos}
    wanted = [expected(model, pruner, rows[0], videos[:2]), expected(model, pruner, rows[1], videos[2:])]
    output = generate(model, inputs, pruner)
    assert_equal_to(output, inputs, wanted)
    one, two, three = (video.tokens_per_layer for video in output.session.report.videos)
    last = pruner.cuts(LAYERS)[-1].keep
    assert one[-1] + two[-1] == budget.count(last, 2 * GRID)
    assert three[-1] == budget.count(last, GRID)


@pytest.mark.parametrize("name", ["tango-fastv", "pyramiddrop"])
@pytest.mark.parametrize("positions", ["contiguous", "original"])
def test_pair(sdpa: Any, name: str, positions: str) -> None:
    inside = tangovlm.method(name, **METHODS[name])
    pruner = Pair(Norms(), inside, retention=0.3)
    rows = [prompt(sdpa, 2, 4, seed=2), prompt(sdpa, 9, 12, seed=3)]
    videos = make_videos(sdpa, 2, FRAMES)
    inputs = pad_left(rows) | {"pixel_values_videos": videos}
    with tangovlm.attach(sdpa, pruner, positions=positions) as session:
        output = sdpa.generate(**inputs, **KEEP)
    mean = sum(budget.kept_per_layer(inside.cuts(LAYERS), LAYERS)) / LAYERS
    before = Norms(float(budget.exact(0.3) / mean))
    wanted = [
        expected(sdpa, inside, row, video[None], before, original=positions == "original")
        for row, video in zip(rows, videos, strict=True)
    ]
    assert_equal_to(output, inputs, wanted)
    for video in session.report.videos:
        assert video.tokens_after == budget.count(before.retention, GRID)
        assert video.retention == 0.3
        assert video.equivalent_retention == pytest.approx(0.3, abs=0.02)
        assert video.method == f"norms+{name}"


def reference_beams(model: Any, pruner: Any, row: list[int], videos: Tensor, beams: int, new: int) -> list[int]:
    """Plain beam search without an end token."""
    alive: list[tuple[float, list[int]]] = [(0.0, [])]
    visual = visual_places(row)
    lm = model.model.language_model
    reference = Reference(lm, pruner.name, {cut.layer: cut.keep for cut in pruner.cuts(LAYERS)})
    chosen = [(whole(model, video), model.model.image_newline.detach()) for video in videos]
    for _ in range(new):
        grown = []
        for score, tokens in alive:
            embeds = embed_row(model, [*row, *tokens], chosen, None)
            with torch.no_grad():
                last = reference.states(embeds, torch.arange(len(embeds)), [Prompt(len(embeds) - len(tokens), visual)])[
                    -1
                ]
                logp = model.lm_head(last).log_softmax(-1)
            grown += [
                (score + float(value), [*tokens, int(token)])
                for value, token in zip(*logp.topk(2 * beams), strict=True)
            ]
        alive = sorted(grown, key=lambda item: -item[0])[:beams]
    return alive[0][1]


@pytest.mark.parametrize("name", ["fastv", "sparsevlm"])
def test_beams(sdpa: Any, name: str) -> None:
    pruner = tangovlm.method(name, **METHODS[name])
    rows = [prompt(sdpa, 2, 4, seed=2), prompt(sdpa, 6, 5, seed=3)]
    videos = make_videos(sdpa, 2, FRAMES)
    inputs = pad_left(rows) | {"pixel_values_videos": videos}
    output = generate(sdpa, inputs, pruner, num_beams=2, max_new_tokens=3)
    start = inputs["input_ids"].shape[1]
    for row, video, sequence in zip(rows, videos, output.sequences, strict=True):
        assert sequence[start:].tolist() == reference_beams(sdpa, pruner, row, video[None], 2, 3)
    # The oldest release encodes a copy of the video for every beam.
    reports = output.session.report.videos
    assert [len(video.tokens_per_layer) for video in reports] == [LAYERS] * (4 if OLDEST else 2)


@pytest.mark.parametrize("name", ["fastv", "pyramiddrop"])
def test_static_cache(sdpa: Any, name: str) -> None:
    pruner = tangovlm.method(name, **METHODS[name])
    rows = [prompt(sdpa, 2, 4, seed=2), prompt(sdpa, 9, 12, seed=3)]
    videos = make_videos(sdpa, 2, FRAMES)
    for some in ([0], [0, 1]):
        inputs = pad_left([rows[number] for number in some]) | {"pixel_values_videos": videos[some]}
        wanted = [expected(sdpa, pruner, rows[number], videos[number][None]) for number in some]
        assert_equal_to(generate(sdpa, inputs, pruner, cache_implementation="static"), inputs, wanted)


@pytest.mark.parametrize("name", ["fastv", "pyramiddrop", "dart", "flexselect"])
@pytest.mark.parametrize("second_video", [True, False])
def test_conversation_on_one_cache(sdpa: Any, name: str, second_video: bool) -> None:
    pruner = tangovlm.method(name, **METHODS[name])
    row, videos = prompt(sdpa, 3, 5, seed=1), make_videos(sdpa, 2, FRAMES)
    with tangovlm.attach(sdpa, pruner):
        first = sdpa.generate(**pad_left([row]), pixel_values_videos=videos[:1], **KEEP)
        ids = first.sequences[0].tolist() + (prompt(sdpa, 2, 4, seed=30) if second_video else words(5, seed=31))
        second = sdpa.generate(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            past_key_values=first.past_key_values,
            **({"pixel_values_videos": videos[1:]} if second_video else {}),
            **KEEP,
        )
    places = visual_places(ids)
    prompts = [Prompt(len(row), places[:GRID], 5), *([Prompt(len(ids), places[GRID:], 4)] if second_video else [])]
    chosen = [(whole(sdpa, video), sdpa.model.image_newline.detach()) for video in videos[: len(prompts)]]
    lm = sdpa.model.language_model
    reference = Reference(lm, name, {cut.layer: cut.keep for cut in pruner.cuts(LAYERS)})
    said: list[int] = []
    for step in range(NEW):
        embeds = embed_row(sdpa, [*ids, *said], chosen, None)
        with torch.no_grad():
            logits = sdpa.lm_head(reference.states(embeds, torch.arange(len(embeds)), prompts)[-1])
        if step == 0:
            torch.testing.assert_close(second.logits[0][0], logits, atol=1e-4, rtol=0)
        said.append(int(logits.argmax()))
    assert second.sequences[0, len(ids) :].tolist() == said


def test_text_turn_first_then_a_video(sdpa: Any) -> None:
    pruner = tangovlm.method("fastv", **METHODS["fastv"])
    rows = [words(4, seed=40), words(9, seed=41)]
    turn = [prompt(sdpa, 1, 4, seed=42), prompt(sdpa, 1, 4, seed=43)]
    videos, padded = make_videos(sdpa, 2, FRAMES), pad_left(rows)
    with tangovlm.attach(sdpa, pruner):
        first = sdpa.generate(**padded, **KEEP)
        ids = torch.cat([first.sequences, torch.tensor(turn)], dim=1)
        mask = torch.cat([padded["attention_mask"], torch.ones_like(ids[:, padded["input_ids"].shape[1] :])], dim=1)
        options = {"past_key_values": first.past_key_values, "pixel_values_videos": videos}
        second = sdpa.generate(input_ids=ids, attention_mask=mask, **options, **KEEP)
    for number in range(2):
        full = ids[number][mask[number].bool()].tolist()
        tokens, *_ = expected(sdpa, pruner, full, videos[number][None])
        assert second.sequences[number, ids.shape[1] :].tolist() == tokens


def test_right_padding(sdpa: Any) -> None:
    pruner = tangovlm.method("tango-fastv", **METHODS["tango-fastv"])
    rows = [prompt(sdpa, 2, 4, seed=2), prompt(sdpa, 9, 12, seed=3)]
    videos = make_videos(sdpa, 2, FRAMES)
    gap = len(rows[1]) - len(rows[0])
    mask = torch.tensor([[1] * len(rows[0]) + [0] * gap, [1] * len(rows[1])])
    with torch.no_grad(), tangovlm.attach(sdpa, pruner):
        ids = torch.tensor([[*rows[0], *[0] * gap], rows[1]])
        logits = sdpa(input_ids=ids, attention_mask=mask, pixel_values_videos=videos).logits[:, -1]
    wanted = [expected(sdpa, pruner, row, video[None])[1] for row, video in zip(rows, videos, strict=True)]
    torch.testing.assert_close(logits, torch.stack(wanted), atol=1e-4, rtol=0)


def test_state_of_a_cropped_cache() -> None:
    layers = [LayerPositions(torch.ones(1, length, dtype=torch.bool), False) for length in (9, 6, 4)]
    state = CacheState(tuple(layers), None)
    assert state.crop(9) is state
    assert [positions.length for positions in state.crop(7).layers] == [7, 4, 2]


def test_decoding_loop_on_a_copied_cache(sdpa: Any) -> None:
    """`model(...)` creates the cache; a copy of it, repeated for two continuations, includes the state."""
    pruner = tangovlm.method("pyramiddrop", **METHODS["pyramiddrop"])
    row, videos = prompt(sdpa, 3, 5, seed=1), make_videos(sdpa, 1, FRAMES)
    with torch.no_grad(), tangovlm.attach(sdpa, pruner):
        output = sdpa(**pad_left([row]), pixel_values_videos=videos, use_cache=True)
        plain = sdpa(**pad_left([row]), pixel_values_videos=videos, use_cache=False).logits
        torch.testing.assert_close(output.logits, plain)
        cache = copy.deepcopy(output.past_key_values)
        cache.batch_repeat_interleave(2)
        logits = sdpa(input_ids=torch.tensor([[20], [30]]), past_key_values=cache).logits[:, -1]
    for token, got in zip((20, 30), logits, strict=True):
        embeds = embed_row(sdpa, [*row, token], [(whole(sdpa, videos[0]), sdpa.model.image_newline.detach())], None)
        reference = Reference(
            sdpa.model.language_model, pruner.name, {cut.layer: cut.keep for cut in pruner.cuts(LAYERS)}
        )
        with torch.no_grad():
            last = reference.states(embeds, torch.arange(len(embeds)), [Prompt(len(row), visual_places(row))])[-1]
        torch.testing.assert_close(got, sdpa.lm_head(last), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", [*METHODS, "norms+fastv"])
def test_keeping_everything_is_the_stock_model(model: Any, name: str) -> None:
    inputs = pad_left([prompt(model, 3, 5, seed=1)]) | {"pixel_values_videos": make_videos(model, 1, FRAMES)}
    fastv = tangovlm.method("fastv")
    pruner = Pair(Norms(), fastv, retention=1.0) if "+" in name else tangovlm.method(name, retention=1.0)
    plain, output = model.generate(**inputs, **KEEP), generate(model, inputs, pruner)
    assert torch.equal(plain.sequences, output.sequences)
    assert all(torch.equal(one, other) for one, other in zip(plain.logits, output.logits, strict=True))


def test_model_is_restored_also_after_an_error(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = pad_left([prompt(model, 3, 5, seed=1)]) | {"pixel_values_videos": make_videos(model, 1, FRAMES)}
    pruner = tangovlm.method("pyramiddrop", **METHODS["pyramiddrop"])
    before, plain = state_of(model), model.generate(**inputs, **GREEDY)
    with tangovlm.attach(model, pruner):
        pruned = model.generate(**inputs, **GREEDY)
        assert state_of(model) != before
    assert state_of(model) == before
    assert torch.equal(model.generate(**inputs, **GREEDY), plain)
    with monkeypatch.context() as patch:
        patch.setattr(type(pruner), "__call__", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError), tangovlm.attach(model, pruner):
            model.generate(**inputs, **GREEDY)
    assert state_of(model) == before
    with tangovlm.attach(model, pruner):
        assert torch.equal(model.generate(**inputs, **GREEDY), pruned)
        text = pad_left([words(5, 1)])
        assert model.generate(**text, **GREEDY).shape[1] == 5 + NEW


def test_ways_to_generate_that_are_refused(sdpa: Any) -> None:
    inputs = pad_left([prompt(sdpa, 3, 5, seed=1)]) | {"pixel_values_videos": make_videos(sdpa, 1, FRAMES)}
    ways = {"prompt_lookup_num_tokens": 3, "prefill_chunk_size": 8, "use_cache": False, "assistant_model": sdpa}
    with tangovlm.attach(sdpa, tangovlm.method("fastv", keep_ratio=0.5)):
        for name, value in ways.items():
            with pytest.raises(InputError, match=f"{name}: .*inside the model"):
                sdpa.generate(**inputs, **GREEDY | {name: value})
        with pytest.raises(InputError, match="needs input_ids"):
            sdpa(inputs_embeds=torch.randn(1, 4, 48))
