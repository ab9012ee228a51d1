"""Every family against its reference without hooks and caches, in every use that it supports; see `host`."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import tangovlm
from tangovlm import budget, registry
from tangovlm.errors import InputError, ModelError
from tangovlm.models.common.family import FEATURES, Family
from tangovlm.selfcheck.twins import TWINS, twins
from tangovlm.selfcheck.twins.common.base import Twin
from tangovlm.selfcheck.twins.common.norms import Norms
from tangovlm.selfcheck.twins.common.parts import Image, PromptParts, RandomWords, TokenIds, Video
from tests.support.tiny_models import state_of

HOSTS = twins()
NEW, FRAMES = 5, 4
COUNTS, RETENTIONS = (1, 2, 7, 32), (1.0, 0.5, 0.1)
ONE: PromptParts = (RandomWords(3, 1), Video(FRAMES, 2), RandomWords(5, 3))
OTHER: PromptParts = (RandomWords(7, 4), Video(FRAMES, 5), RandomWords(4, 6))
TEXT: PromptParts = (RandomWords(6, 7),)
BOTH: PromptParts = (RandomWords(2, 8), Video(FRAMES, 9), RandomWords(3, 10), Video(FRAMES, 11), RandomWords(4, 12))


def family_of(host: Twin) -> type[Family]:
    return registry.family_for(host.model)


@pytest.fixture(scope="module", params=HOSTS)
def host(request: pytest.FixtureRequest) -> Twin:
    return HOSTS[request.param]()


def claims(host: Twin, feature: str) -> None:
    if feature not in family_of(host).tested:
        pytest.skip(f"{host.family} does not claim {feature}")
    if feature in host.broken_uses:
        pytest.skip(f"this release of transformers cannot do {feature} with {host.family}")


def generate(host: Twin, inputs: dict[str, Any], pruner: Any, **options: Any) -> Any:
    attached = {name: options.pop(name) for name in ("chunk_frames",) if name in options}
    options = {"max_new_tokens": NEW, "do_sample": False} | options
    with tangovlm.attach(host.model, pruner, **attached) as session:
        output = host.model.generate(**inputs, **options, return_dict_in_generate=True, output_logits=True)
    output.session = session
    return output


def check(host: Twin, rows: list[PromptParts], pruner: Any, **options: Any) -> Any:
    """Generate for prompts in a batch, and compare each with its reference."""
    inputs = host.inputs(rows)
    output = generate(host, inputs, pruner, **options)
    start = inputs["input_ids"].shape[1]
    assert torch.equal(output.sequences[:, :start], inputs["input_ids"])
    wanted = [host.reference(row, pruner, NEW) for row in rows]
    torch.testing.assert_close(output.logits[0], torch.stack([first for _, first in wanted]), atol=1e-4, rtol=0)
    assert output.sequences[:, start:].tolist() == [tokens for tokens, _ in wanted]
    return output


def test_every_family_is_under_test() -> None:
    names = {family.name for family in registry.families().values()}
    # An older transformers lacks some.
    assert names == {entry.family for entry in TWINS.values()}
    for family in registry.families().values():
        assert family.tested <= set(FEATURES)
        assert family.checkpoints


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("retention", [0.1, 0.5])
@pytest.mark.parametrize("name", HOSTS)
def test_single_video(name: str, attention: str, retention: float) -> None:
    host, pruner = HOSTS[name](attention=attention), Norms(retention)
    output = check(host, [ONE], pruner)
    piece = host.encode_part(Video(FRAMES, 2), None)
    assert piece.grid is not None
    count = piece.grid[0] * piece.grid[1] * piece.grid[2]
    report = output.session.report
    assert (report.tokens_before, report.tokens_after) == (count, budget.count(retention, count))
    assert output.past_key_values.get_seq_length() == host.length(ONE, pruner) + NEW - 1


def test_left_padded_batch(host: Twin) -> None:
    claims(host, "batch")
    check(host, [ONE, OTHER], Norms())


def test_text_beside_video(host: Twin) -> None:
    claims(host, "batch")
    check(host, [ONE, TEXT], Norms())


def test_two_videos(host: Twin) -> None:
    claims(host, "several videos")
    output = check(host, [BOTH], Norms())
    assert len(output.session.report.videos) == 2


def test_ragged_batch(host: Twin) -> None:
    claims(host, "several videos")
    check(host, [BOTH, ONE], Norms())


@pytest.mark.parametrize("image_first", [True, False])
def test_image_beside_video(host: Twin, image_first: bool) -> None:
    claims(host, "image beside video")
    media = (Image(20), Video(FRAMES, 21))
    first, second = media if image_first else media[::-1]
    output = check(host, [(RandomWords(3, 22), first, RandomWords(4, 23), second, RandomWords(3, 24))], Norms())
    assert len(output.session.report.videos) == 1


def test_image_alone_is_untouched(host: Twin) -> None:
    claims(host, "image beside video")
    inputs = host.inputs([(RandomWords(3, 22), Image(20), RandomWords(4, 23))])
    stock = host.model.generate(**inputs, max_new_tokens=NEW, do_sample=False)
    output = generate(host, inputs, Norms())
    assert torch.equal(output.sequences, stock)
    assert output.session.report.videos == ()


def test_conversation_on_one_cache(host: Twin) -> None:
    claims(host, "multi-turn")
    pruner, question = Norms(), RandomWords(5, 31)
    options: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False, "return_dict_in_generate": True}
    rows = [ONE, OTHER]
    with tangovlm.attach(host.model, pruner):
        inputs = host.inputs(rows)
        first = host.model.generate(**inputs, **options)
        start, again = inputs["input_ids"].shape[1], host.next_turn(inputs, first.sequences, question)
        second = host.model.generate(**again, past_key_values=first.past_key_values, **options)
    for number, row in enumerate(rows):
        said = TokenIds(tuple(first.sequences[number, start:].tolist()))
        tokens, _ = host.reference((*row, said, question), pruner, NEW)
        assert second.sequences[number, -NEW:].tolist() == tokens


def test_a_prefix_for_two_prompts(host: Twin) -> None:
    """A cache that is cropped before the video is continued with another question, and with another video."""
    claims(host, "multi-turn")
    if family_of(host).keeps_positions:
        pytest.skip("the stock model goes on from the positions of the last call")
    if family_of(host)(host.model).recurrent:
        pytest.skip("the state of a recurrent layer cannot be cropped")
    if host.family == "gemma-4":
        pytest.skip("a cache that has filled its window cannot be cropped")
    pruner, words, other = Norms(), RandomWords(3, 1), RandomWords(6, 80)
    inputs = host.inputs([(words, Video(FRAMES, 2), RandomWords(5, 3))])
    ids = torch.tensor([[*words.ids, *other.ids]])
    options: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False}
    with tangovlm.attach(host.model, pruner), torch.no_grad():
        cache = host.model(**inputs, use_cache=True).past_key_values
        cache.crop(words.count - cache.get_seq_length())
        said = host.model.generate(input_ids=ids, past_key_values=cache, **options)
    assert said[0, ids.shape[1] :].tolist() == host.reference((words, other), pruner, NEW)[0]


def test_decoding_loop(host: Twin) -> None:
    """`model(...)` with the caller's cache: logits of the pruned sequence, then one token at a time."""
    claims(host, "multi-turn")
    pruner, said = Norms(), []
    inputs, length = host.inputs([ONE]), host.length(ONE, pruner)
    with torch.no_grad(), tangovlm.attach(host.model, pruner):
        output = host.model(**inputs, use_cache=True)
        assert output.logits.shape[1] == length
        for _ in range(NEW):
            said.append(int(output.logits[0, -1].argmax()))
            output = host.model(input_ids=torch.tensor([said[-1:]]), past_key_values=output.past_key_values)
    assert said == host.reference(ONE, pruner, NEW)[0]


def beams(host: Twin, row: PromptParts, pruner: Any, width: int, new: int) -> list[int]:
    """Plain beam search without an end token: all hypotheses have the same length."""
    alive: list[tuple[float, list[int]]] = [(0.0, [])]
    for _ in range(new):
        grown = []
        for score, tokens in alive:
            logits = host.reference((*row, TokenIds(tuple(tokens))), pruner, 1)[1].log_softmax(-1)
            for logp, token in zip(*logits.topk(2 * width), strict=True):
                grown.append((score + float(logp), [*tokens, int(token)]))
        alive = sorted(grown, key=lambda item: -item[0])[:width]
    return alive[0][1]


def test_beams(host: Twin) -> None:
    claims(host, "beams")
    pruner, rows = Norms(), [ONE, OTHER]
    inputs = host.inputs(rows)
    output = generate(host, inputs, pruner, num_beams=2, max_new_tokens=3)
    for row, sequence in zip(rows, output.sequences, strict=True):
        assert sequence[inputs["input_ids"].shape[1] :].tolist() == beams(host, row, pruner, 2, 3)


def test_sampling_of_several_answers(host: Twin) -> None:
    """With a temperature near zero, every answer is the greedy one of its prompt."""
    claims(host, "sampling")
    pruner, rows = Norms(), [ONE, OTHER]
    inputs = host.inputs(rows)
    output = generate(host, inputs, pruner, do_sample=True, temperature=1e-4, num_return_sequences=2, top_k=0)
    one, other = (host.reference(row, pruner, NEW)[0] for row in rows)
    assert output.sequences[:, inputs["input_ids"].shape[1] :].tolist() == [one, one, other, other]


WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "prompt lookup": ("assisted", {"prompt_lookup_num_tokens": 3}),
    "static cache": ("static cache", {"cache_implementation": "static"}),
    "no cache": ("no cache", {"use_cache": False}),
    "chunks": ("chunked encoding", {"chunk_frames": 1}),
}


@pytest.mark.parametrize("way", WAYS)
def test_ways_to_generate(host: Twin, way: str) -> None:
    feature, options = WAYS[way]
    claims(host, feature)
    repeated = (*ONE, RandomWords(4, 40), RandomWords(4, 40))
    check(host, [repeated], Norms(), **options)


@pytest.mark.parametrize("way", ["static cache", "no cache", "chunks"])
def test_ways_to_generate_with_padding(host: Twin, way: str) -> None:
    feature, options = WAYS[way]
    claims(host, feature)
    check(host, [BOTH, OTHER], Norms(), **options)


def test_full_retention_is_bit_identical(host: Twin) -> None:
    inputs = host.inputs([BOTH, ONE])
    options: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False, "return_dict_in_generate": True}
    stock = host.model.generate(**inputs, **options, output_logits=True)
    ours = generate(host, inputs, tangovlm.Tango(retention=1.0))
    assert torch.equal(ours.sequences, stock.sequences)
    assert all(torch.equal(one, other) for one, other in zip(ours.logits, stock.logits, strict=True))


def fail_within(host: Twin, inputs: dict[str, Any]) -> None:
    with tangovlm.attach(host.model, Norms()):
        host.model.generate(**inputs, max_new_tokens=1)
        raise ZeroDivisionError


def test_model_is_restored(host: Twin) -> None:
    inputs = host.inputs([ONE])
    stock = host.model.generate(**inputs, max_new_tokens=NEW, do_sample=False)
    before = state_of(host.model)
    generate(host, inputs, Norms())
    assert state_of(host.model) == before
    with pytest.raises(ZeroDivisionError):
        fail_within(host, inputs)
    assert state_of(host.model) == before
    assert torch.equal(host.model.generate(**inputs, max_new_tokens=NEW, do_sample=False), stock)


def test_nested_and_repeated(host: Twin) -> None:
    inputs, before = host.inputs([ONE]), state_of(host.model)
    with tangovlm.attach(host.model, Norms(0.5)):
        with pytest.raises(ModelError, match="already attached"), tangovlm.attach(host.model, Norms(0.1)):
            pass
        inner = host.model.generate(**inputs, max_new_tokens=NEW, do_sample=False)
    assert state_of(host.model) == before
    assert torch.equal(generate(host, inputs, Norms(0.5)).sequences, inner)


@pytest.mark.parametrize("name", HOSTS)
def test_two_models_at_once(name: str) -> None:
    one, other = HOSTS[name](seed=0), HOSTS[name](seed=1)
    wanted = [host.reference(ONE, Norms(keep), NEW)[0] for host, keep in ((one, 0.5), (other, 0.2))]
    inputs = one.inputs([ONE])
    with tangovlm.attach(one.model, Norms(0.5)), tangovlm.attach(other.model, Norms(0.2)):
        said = [host.model.generate(**inputs, max_new_tokens=NEW, do_sample=False) for host in (one, other)]
    assert [ids[0, -NEW:].tolist() for ids in said] == wanted


@pytest.mark.parametrize(
    ("rows", "retention"),
    [([ONE], 1.0), ([ONE], 0.9), ([(RandomWords(3, 1), Image(20), *ONE)], 0.9), ([BOTH, OTHER], 1.0)],
)
@pytest.mark.filterwarnings("ignore:neither timestamps")
def test_the_retention_proposed_for_a_short_context_fits(
    host: Twin, rows: list[PromptParts], retention: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    if any(isinstance(part, Image) for part in rows[0]):
        claims(host, "image beside video")
    inputs = host.inputs(rows)
    limit = max(host.length(row, Norms(0.5)) for row in rows) + 4
    monkeypatch.setattr(host.model.get_decoder().config, "max_position_embeddings", limit)
    with pytest.raises(InputError, match=f"context {limit}: give retention=") as caught:
        generate(host, inputs, Norms(retention))
    fits = float(re.search(r"retention=(\S+) ", str(caught.value)).group(1))
    assert 0.2 < fits < 0.53
    generate(host, inputs, Norms(fits))


@pytest.mark.parametrize("frames", COUNTS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_method_keeps_exactly_its_budget(host: Twin, frames: int) -> None:
    """Every method meets every number of frames, and every retention at one of them at least."""
    family = family_of(host)
    video = Video(frames, 50)
    inputs = host.inputs([(RandomWords(2, 51), video, RandomWords(3, 52))])
    piece = host.encode_part(video, None)
    assert piece.grid is not None
    count = piece.grid[0] * piece.grid[1] * piece.grid[2]
    ran = 0
    for place, (name, method) in enumerate(registry.methods().items(), start=COUNTS.index(frames)):
        if method.stage != "pre-llm" or not family.signals.readable(method()) <= family.signals.provides:
            continue
        retention = RETENTIONS[place % len(RETENTIONS)]
        with tangovlm.attach(host.model, method(retention=retention), **host.attach_options(frames)) as session:
            host.model.generate(**inputs, max_new_tokens=1, do_sample=False)
        assert session.report.tokens_after == budget.count(retention, count), (name, retention)
        ran += 1
    assert ran >= 8


def test_a_missing_signal_is_refused_by_name(host: Twin) -> None:
    family = family_of(host)
    for name, method in registry.methods().items():
        needs = family.signals.readable(method()) if method.stage == "pre-llm" else frozenset()
        if missing := sorted(needs - family.signals.provides):
            with pytest.raises(ModelError, match=f"{name}.*{missing[0]}.*{family.name}"):
                tangovlm.attach(host.model, method(retention=0.5)).__enter__()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_pruning_inside(host: Twin) -> None:
    """FastV in a padded batch, with several videos if the family supports them; or a refusal."""
    pruner = tangovlm.method("fastv", retention=0.5)
    if "pruning inside" not in family_of(host).tested:
        message = "pruning inside the model .*: choose a method that prunes before the language model"
        with pytest.raises(ModelError, match=message), tangovlm.attach(host.model, pruner):
            pass
        return
    rows = [BOTH, OTHER]
    inputs = host.inputs(rows)
    output, start = generate(host, inputs, pruner), inputs["input_ids"].shape[1]
    wanted = [host.inside(row, pruner, NEW) for row in rows]
    torch.testing.assert_close(output.logits[0], torch.stack([first for _, first, _ in wanted]), atol=1e-4, rtol=0)
    assert output.sequences[:, start:].tolist() == [tokens for tokens, *_ in wanted]
    held = [layer.get_seq_length() - NEW + 1 for layer in output.past_key_values.layers]
    assert held == [max(lengths) for lengths in zip(*(lengths for *_, lengths in wanted), strict=True)]
    assert held[-1] < held[0]
