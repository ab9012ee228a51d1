"""Images that are pruned like videos of one frame: the answers are those of a reference without hooks and caches."""

from typing import Any

import pytest
import torch
from torch import Tensor

import tangovlm
from tangovlm import budget, registry
from tangovlm.errors import InputError
from tangovlm.models.common.transformers_compat import encodes_first
from tangovlm.selfcheck import twins
from tangovlm.selfcheck.twins.common.base import Twin
from tangovlm.selfcheck.twins.common.norms import Norms
from tangovlm.selfcheck.twins.common.parts import Image, PromptParts, RandomWords, TokenIds, Video

NEW, FRAMES = 4, 4
GREEDY: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False}
ALONE: PromptParts = (RandomWords(3, 1), Image(20), RandomWords(4, 2))
SEVERAL: PromptParts = (RandomWords(2, 3), Image(21), RandomWords(3, 4), Image(22), Image(23), RandomWords(2, 5))
MIXED: PromptParts = (Image(24), RandomWords(3, 6), Video(FRAMES, 7), RandomWords(2, 8), Image(25), RandomWords(3, 9))


@pytest.fixture(scope="module", params=twins.available())
def host(request: pytest.FixtureRequest) -> Twin:
    made: Twin = twins.load(request.param)()
    if not registry.family_for(made.model).prunes_images or request.param == "llava_onevision":
        # The tiles of LLaVA-OneVision have tests of their own.
        pytest.skip(f"{made.family} cannot prune images")
    made.prunes_images = True
    return made


def is_visual(part: Any) -> bool:
    return isinstance(part, (Image, Video))


def mixed(host: Twin) -> PromptParts:
    """Images beside a video, if the family claims that."""
    return MIXED if "image beside video" in registry.family_for(host.model).tested else SEVERAL


@pytest.mark.parametrize("rows", [[ALONE], [SEVERAL], [MIXED, ALONE]], ids=["one", "several", "beside a video"])
@pytest.mark.parametrize("retention", [0.5, 0.1])
def test_answers_are_those_of_the_reference(host: Twin, rows: list[PromptParts], retention: float) -> None:
    rows = [mixed(host) if row is MIXED else row for row in rows]
    pruner, inputs = Norms(retention), host.inputs(rows)
    options = GREEDY | {"return_dict_in_generate": True, "output_logits": True}
    with tangovlm.attach(host.model, pruner, images=True) as session:
        output = host.model.generate(**inputs, **options)
    start = inputs["input_ids"].shape[1]
    for number, row in enumerate(rows):
        tokens, logits = host.reference(row, pruner, NEW)
        assert output.sequences[number, start:].tolist() == tokens
        torch.testing.assert_close(output.logits[0][number], logits, atol=1e-4, rtol=1e-4)
    media = sorted("video" if isinstance(part, Video) else "image" for row in rows for part in row if is_visual(part))
    assert sorted(report.medium for report in session.report.videos) == media
    for report in session.report.videos:
        assert report.tokens_after == budget.count(retention, report.tokens_before)


def test_full_retention_is_bit_identical(host: Twin) -> None:
    inputs = host.inputs([mixed(host)])
    with torch.no_grad():
        stock = host.model(**inputs).logits
        with tangovlm.attach(host.model, tangovlm.Tango(retention=1.0), images=True):
            assert torch.equal(host.model(**inputs).logits, stock)


def test_images_are_untouched_unless_asked(host: Twin) -> None:
    inputs = host.inputs([SEVERAL])
    with torch.no_grad():
        stock = host.model(**inputs).logits
        with tangovlm.attach(host.model, Norms()) as session:
            assert torch.equal(host.model(**inputs).logits, stock)
    assert session.report.videos == ()


def test_a_second_turn(host: Twin) -> None:
    pruner, question, row = Norms(), RandomWords(5, 31), mixed(host)
    options = GREEDY | {"return_dict_in_generate": True}
    with tangovlm.attach(host.model, pruner, images=True):
        inputs = host.inputs([row])
        first = host.model.generate(**inputs, **options)
        start, again = inputs["input_ids"].shape[1], host.next_turn(inputs, first.sequences, question)
        second = host.model.generate(**again, past_key_values=first.past_key_values, **options)
    said = TokenIds(tuple(first.sequences[0, start:].tolist()))
    assert second.sequences[0, -NEW:].tolist() == host.reference((*row, said, question), pruner, NEW)[0]


def test_other_ways_to_generate(host: Twin) -> None:
    """With a temperature near zero, every sampled answer is the greedy one."""
    pruner, rows = Norms(), [mixed(host), ALONE]
    inputs, wanted = host.inputs(rows), [host.reference(row, pruner, NEW)[0] for row in rows]
    start = inputs["input_ids"].shape[1]
    ways: dict[str, dict[str, Any]] = {
        "no cache": {"use_cache": False},
        "static cache": {"cache_implementation": "static"},
    }
    claimed = registry.family_for(host.model).tested - host.broken_uses
    for feature, options in ways.items():
        if feature in claimed:
            with tangovlm.attach(host.model, pruner, images=True, chunk_frames=1):
                found = host.model.generate(**inputs, **GREEDY, **options)
            assert found[:, start:].tolist() == wanted, feature
    # Older releases of these models copy images one by one: of several, a prompt then has the first one twice.
    mixes = host.family in ("gemma-4", "video-llava") and not encodes_first(host.model)
    if "sampling" in claimed and not mixes:
        sampled = {"max_new_tokens": NEW, "do_sample": True, "temperature": 1e-6, "num_return_sequences": 2, "top_k": 0}
        with tangovlm.attach(host.model, pruner, images=True):
            found = host.model.generate(**inputs, **sampled)
        assert found[:, start:].tolist() == [wanted[0], wanted[0], wanted[1], wanted[1]]


@pytest.mark.parametrize("frames", [1, FRAMES])
def test_every_method_keeps_exactly_its_budget(frames: int) -> None:
    """Images beside a video: both have their own budget, and no method needs more than one frame."""
    host: Twin = twins.load("qwen2_5_vl")()
    row: PromptParts = (Image(24), RandomWords(3, 6), Video(frames, 7), RandomWords(2, 8), Image(25), RandomWords(3, 9))
    inputs = host.inputs([row])
    for name, cls in registry.methods().items():
        if getattr(cls, "stage", "pre-llm") != "pre-llm":
            continue
        with tangovlm.attach(host.model, tangovlm.method(name, retention=0.4), images=True) as session:
            host.model.generate(**inputs, **GREEDY)
        reports = session.report.videos
        assert [each.medium for each in reports].count("image") == 2, name
        assert all(each.tokens_after == budget.count(0.4, each.tokens_before) for each in reports), name
        assert not any("one second apart" in note for each in reports if each.medium == "image" for note in each.notes)


def test_what_is_refused() -> None:
    host: Twin = twins.load("qwen2_vl")()
    other: Twin = twins.load("internvl")()
    cases: list[tuple[Twin, Any, Any, str]] = [
        (host, Norms(), 1, "images is 1: give True"),
        (host, tangovlm.method("fastv", retention=0.5), True, "inside the language model prune videos only"),
        (host, tangovlm.method("tango+tango-fastv"), True, "inside the language model prune videos only"),
        (other, Norms(), True, "images of the family internvl cannot be pruned"),
    ]
    for twin, pruner, images, message in cases:
        with pytest.raises(InputError, match=message), tangovlm.attach(twin.model, pruner, images=images):
            pass


def test_a_prompt_that_only_fits_without_dropped_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    host: Twin = twins.load("qwen2_vl")()
    host.prunes_images = True
    inputs, pruner = host.inputs([MIXED]), Norms(0.5)
    length = host.length(MIXED, pruner)
    config = host.model.get_decoder().config
    monkeypatch.setattr(config, "max_position_embeddings", length)
    with torch.no_grad(), tangovlm.attach(host.model, pruner, images=True):
        logits: Tensor = host.model(**inputs).logits
    assert logits.shape[1] == length < inputs["input_ids"].shape[1]
    monkeypatch.setattr(config, "max_position_embeddings", length - 1)
    attached = tangovlm.attach(host.model, pruner, images=True)
    with pytest.raises(InputError, match=f"the prompt has {length} tokens after pruning"), torch.no_grad(), attached:
        host.model(**inputs)


@pytest.mark.parametrize("pruner", [Norms(0.999), tangovlm.Tango(retention=1.0)], ids=["nothing dropped", "unpruned"])
def test_a_prompt_that_is_too_long_though_nothing_is_dropped(pruner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    host: Twin = twins.load("qwen2_vl")()
    inputs = host.inputs([MIXED])
    length = inputs["input_ids"].shape[1]
    monkeypatch.setattr(host.model.get_decoder().config, "max_position_embeddings", length - 1)
    attached = tangovlm.attach(host.model, pruner, images=True)
    with pytest.raises(InputError, match=f"the prompt has {length} tokens"), torch.no_grad(), attached:
        host.model(**inputs)


def test_reports_name_images() -> None:
    host: Twin = twins.load("qwen2_vl")()
    with tangovlm.attach(host.model, Norms(0.5), images=True, record=True) as session:
        host.model.generate(**host.inputs([MIXED]), **GREEDY)
    text = str(session.report)
    assert text.startswith("1 video, 2 images: ") and "  image 1: " in text
    assert len(session.videos) == 3
