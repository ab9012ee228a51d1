"""Adaptive counts: the content of each video decides how many of its tokens are kept, up to the retention."""

from typing import Any

import pytest

import tangovlm
from tangovlm import budget
from tangovlm.errors import InputError
from tangovlm.methods.build import Pair, plan
from tangovlm.selfcheck.twins import load
from tangovlm.selfcheck.twins.common.base import Twin
from tangovlm.selfcheck.twins.common.parts import PromptParts, RandomWords, TokenIds, Video
from tests.session.test_generate_families import BOTH, NEW, ONE, OTHER, TEXT, check
from tests.support.adaptive import LargeTokens, adaptive, largest

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module", params=["llava_onevision", "llava_video", "qwen2_5_vl", "qwen3_vl", "smolvlm"])
def host(request: pytest.FixtureRequest) -> Twin:
    return load(request.param)()


def needed(host: Twin, row: PromptParts) -> list[tuple[int, int]]:
    """Tokens of each video of a prompt, and how many of them are above the floor of `adaptive`."""
    found = []
    for part in row:
        if isinstance(part, Video):
            piece = host.encode_part(part, None)
            assert piece.features is not None
            tokens = piece.features[host.grid_indices(piece)]
            found.append((len(tokens), largest(tokens)))
    return found


def test_videos_of_a_batch_keep_what_each_needs(host: Twin) -> None:
    rows = [BOTH, ONE, TEXT] if "batch" in tangovlm.registry.family_for(host.model).tested else [BOTH]
    output = check(host, rows, adaptive(1.0))
    videos, wanted = output.session.report.videos, [each for row in rows for each in needed(host, row)]
    assert [(video.tokens_before, video.tokens_after) for video in videos] == wanted
    assert [video.tokens_cap for video in videos] == [tokens for tokens, _ in wanted]
    assert len({video.tokens_after for video in videos}) > 1
    assert f"at most {videos[0].tokens_cap}" in str(videos[0])


def test_the_retention_is_the_most_that_is_kept(host: Twin) -> None:
    ((tokens, wanted),) = needed(host, ONE)
    cap = budget.count(0.05, tokens)
    assert cap < wanted
    (video,) = check(host, [ONE], adaptive(0.05)).session.report.videos
    assert (video.tokens_after, video.tokens_cap) == (cap, cap)


def test_a_fixed_number_has_no_cap(host: Twin) -> None:
    (video,) = check(host, [ONE], LargeTokens(0.5)).session.report.videos
    assert video.tokens_cap is None
    assert video.tokens_after == budget.count(0.5, video.tokens_before)
    assert "at most" not in str(video)


def test_the_next_turn_of_a_conversation(host: Twin) -> None:
    pruner, question = adaptive(0.9), RandomWords(5, 31)
    options: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False, "return_dict_in_generate": True}
    rows = [BOTH, OTHER] if "batch" in tangovlm.registry.family_for(host.model).tested else [BOTH]
    with tangovlm.attach(host.model, pruner):
        inputs = host.inputs(rows)
        first = host.model.generate(**inputs, **options)
        start, again = inputs["input_ids"].shape[1], host.next_turn(inputs, first.sequences, question)
        second = host.model.generate(**again, past_key_values=first.past_key_values, **options)
    for number, row in enumerate(rows):
        said = TokenIds(tuple(first.sequences[number, start:].tolist()))
        tokens, _ = host.reference((*row, said, question), pruner, NEW)
        assert second.sequences[number, -NEW:].tolist() == tokens


@pytest.mark.parametrize("name", ["llava_onevision", "llava_video"])
def test_the_retention_proposed_for_a_short_context_fits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    host = load(name)()
    inputs = host.inputs([ONE])
    ((tokens, wanted),) = needed(host, ONE)
    limit = host.length(ONE, LargeTokens(wanted / 2 / tokens))
    monkeypatch.setattr(host.model.get_decoder().config, "max_position_embeddings", limit)
    with (
        tangovlm.attach(host.model, adaptive(1.0)),
        pytest.raises(InputError, match=f"context {limit}: give retention=") as caught,
    ):
        host.model.generate(**inputs, max_new_tokens=1)
    fits = float(str(caught.value).split("retention=")[1].split()[0])
    with tangovlm.attach(host.model, adaptive(fits)) as session:
        host.model.generate(**inputs, max_new_tokens=1)
    assert session.report.tokens_after == budget.count(fits, tokens)


def test_newlines_count_towards_the_most() -> None:
    host = load("llava_video")()
    inputs = host.inputs([ONE])
    ((tokens, wanted),) = needed(host, ONE)
    for retention in (0.3, 0.5, 1.0):
        with tangovlm.attach(host.model, adaptive(retention), newlines="counted") as session:
            host.model.generate(**inputs, max_new_tokens=1)
        (video,) = session.report.videos
        allowed = budget.count(retention, tokens + video.newlines_before)
        assert video.tokens_cap == allowed - video.newlines_after
        assert video.tokens_after <= video.tokens_cap
        assert video.tokens_after == (wanted if retention == 1 else video.tokens_after)
    assert video.tokens_after < video.tokens_cap


@pytest.mark.parametrize(
    "name", [name for name, cls in tangovlm.methods().items() if getattr(cls, "adaptive_fields", {})]
)
def test_every_method_that_can(name: str) -> None:
    """Up to its retention, in one batch with two videos; without `adaptive` it keeps exactly that."""
    host = load("llava_onevision")()
    inputs = host.inputs([BOTH, OTHER])
    for chosen in (False, True):
        pruner = tangovlm.method(name, adaptive=chosen, retention=0.5)
        with tangovlm.attach(host.model, pruner) as session:
            host.model.generate(**inputs, max_new_tokens=2)
        for video in session.report.videos:
            most = budget.count(0.5, video.tokens_before)
            assert video.tokens_cap == (most if chosen else None)
            assert video.tokens_after <= most if chosen else video.tokens_after == most
    assert tangovlm.method(name, adaptive=True, retention=1.0).is_identity is False


# --- pairs ------------------------------------------------------------------------------------------------------------


def test_the_retention_of_a_pair_is_that_of_the_most_tokens() -> None:
    host = load("llava_onevision")()
    inputs = host.inputs([ONE])
    ((_, wanted),) = needed(host, ONE)
    pair = Pair(adaptive(0.1), tangovlm.method("fastv", retention=0.75), retention=0.6)
    with tangovlm.attach(host.model, pair) as session:
        host.model.generate(**inputs, max_new_tokens=1)
    (video,) = session.report.videos
    assert video.tokens_per_layer[0] == wanted < video.tokens_cap
    assert video.equivalent_retention < 0.6
    assert any("others keep fewer" in note for note in video.notes)


def test_a_pair_whose_first_method_adapts_is_never_the_identity() -> None:
    inside = tangovlm.method("fastv")
    assert inside.cuts(4) == ((1, 0.5),)
    with pytest.raises(InputError, match="out of reach"):
        plan(Pair(adaptive(0.1), inside, retention=1.0), 4)
    assert plan(Pair(adaptive(0.1), inside, retention=0.625), 4).before == adaptive(1.0)
    for retention in (0.625, 1.0):
        assert plan(Pair(LargeTokens(), inside, retention=retention), 4).before is None
