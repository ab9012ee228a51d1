"""A prompt beyond the context is refused before its videos are encoded, and one of exactly the context is read."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import tangovlm
from tangovlm import registry
from tangovlm.errors import InputError
from tangovlm.methods.build import Pair, plan
from tangovlm.methods.topk import TopK
from tangovlm.models.common.layout import Grid
from tangovlm.selfcheck.twins import load
from tangovlm.selfcheck.twins.common.base import Twin
from tangovlm.selfcheck.twins.common.parts import Image, PromptParts, RandomWords, Video
from tangovlm.session.lengths.kept import kept_of
from tests.session.test_generate_families import BOTH, FRAMES, HOSTS, ONE, OTHER, TEXT, claims, family_of
from tests.support.adaptive import LargeTokens, adaptive

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
BESIDE_IMAGE: PromptParts = (RandomWords(3, 22), Image(20), RandomWords(4, 23), Video(FRAMES, 21), RandomWords(3, 24))
ROWS: dict[str, list[PromptParts]] = {
    "one": [ONE],
    "batch": [ONE, OTHER, TEXT],
    "several videos": [BOTH],
    "image beside video": [BESIDE_IMAGE],
}
FASTV = tangovlm.method("fastv", keep_ratio=0.5, layer=1)


# One of each way to lay out features, prompts and positions.
FAMILIES = [
    name
    for name in HOSTS
    if name not in ("gemma4_moe", "glm4v_moe", "glm46v", "internvl_3_5", "qwen2_vl", "qwen3_5_moe", "qwen3_vl_moe")
]


@pytest.fixture(scope="module", params=FAMILIES)
def host(request: pytest.FixtureRequest) -> Twin:
    return HOSTS[request.param]()


class Limited:
    """A twin with another context, which counts the calls of its vision encoder."""

    def __init__(self, host: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
        self.host, self.calls, self._monkeypatch = host, 0, monkeypatch
        encoder, name = registry.family_for(host.model)(host.model).encoder, family_of(host).feature_method
        stock = getattr(encoder, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return stock(*args, **kwargs)

        counted.__wrapped__ = stock  # type: ignore[attr-defined]
        monkeypatch.setattr(encoder, name, counted)

    def limit(self, length: int) -> None:
        """Set the context."""
        self._monkeypatch.setattr(self.host.model.get_decoder().config, "max_position_embeddings", length)

    def generate(self, rows: list[PromptParts], pruner: Any, limit: int, **options: Any) -> None:
        """Generate one token with a context of `limit`; `calls` is then the number of calls of the encoder."""
        self.limit(limit)
        attached, without = {"newlines": options.pop("newlines", "kept")}, options.pop("without", "")
        inputs = {name: value for name, value in self.host.inputs(rows).items() if name != without}
        self.calls = 0
        with tangovlm.attach(self.host.model, pruner, **attached):
            self.host.model.generate(**inputs, max_new_tokens=1, do_sample=False, **options)

    def refused(self, *args: Any, **options: Any) -> str:
        """The message of a prompt that is refused."""
        with pytest.raises(InputError, match="context") as caught:
            self.generate(*args, **options)
        message = str(caught.value)
        assert "\n" not in message
        return message


@pytest.fixture
def limited(host: Twin, monkeypatch: pytest.MonkeyPatch) -> Limited:
    return Limited(host, monkeypatch)


def has_free_newlines(host: Twin) -> bool:
    """Whether the content of a video decides how many newlines remain."""
    layout = registry.family_for(host.model)(host.model).layout
    least, most = layout.newline_range(5, Grid(2, 4, 4))
    return least < most


@pytest.mark.parametrize(("name", "retention"), [("one", 1.0), *((name, 0.5) for name in ROWS)])
def test_the_context_is_the_limit(host: Twin, limited: Limited, name: str, retention: float) -> None:
    for feature in ("batch", "several videos", "image beside video"):
        if feature == name:
            claims(host, feature)
    rows, pruner = ROWS[name], LargeTokens(retention)
    length = max(host.length(row, pruner) for row in rows)
    limited.generate(rows, pruner, length)
    assert limited.calls > 0
    message = limited.refused(rows, pruner, length - 1)
    if retention == 0.5 and has_free_newlines(host):
        assert f"has {length} tokens after pruning" in message
        return
    assert limited.calls == 0
    assert f"has {length} tokens{' after pruning' * (retention < 1)}, the model's context {length - 1}: " in message


@pytest.mark.parametrize("retention", [0.5, 1.0])
def test_what_is_proposed_fits(host: Twin, limited: Limited, retention: float) -> None:
    step = registry.family_for(host.model)(host.model).layout.frames_per_step
    row: PromptParts = (RandomWords(3, 1), Video(8 * step, 2), RandomWords(5, 3))
    pruner = LargeTokens(retention)
    lengths = {n: host.length((*row[:1], Video(n * step, 2), *row[2:]), pruner) for n in (4, 5)}
    limit = lengths[4] + 4
    message = limited.refused([row], pruner, limit)
    assert limited.calls == 0
    frames, proposed = (re.search(rf"{text}([\d.]+)", message) for text in ("at most ", "retention="))
    assert frames is not None
    # The most newlines count.
    assert int(frames.group(1)) == (4 if not has_free_newlines(host) or retention == 1 else 3) * step
    limited.generate([(*row[:1], Video(int(frames.group(1)), 2), *row[2:])], pruner, limit)
    # Where the text between frames alone takes the context, no retention fits.
    if proposed is not None:
        limited.generate([row], LargeTokens(float(proposed.group(1))), limit)
    else:
        assert host.length(row, LargeTokens(1e-9)) > lengths[4] - 4


@pytest.mark.parametrize("name", ["fastv", "pair"])
def test_pruning_inside(host: Twin, limited: Limited, name: str) -> None:
    claims(host, "pruning inside")
    pair = Pair(LargeTokens(), FASTV, retention=0.4)
    before = plan(pair, len(host.model.get_decoder().layers)).before
    pruner, length = (FASTV, host.length(ONE, None)) if name == "fastv" else (pair, host.length(ONE, before))
    limited.generate([ONE], pruner, length)
    message = limited.refused([ONE], pruner, length - 1)
    if name == "fastv":
        assert "retention" not in message
        assert message.endswith(" of this size, or a method that prunes before the language model")
    if name == "fastv" or not has_free_newlines(host):
        assert limited.calls == 0


def test_an_adaptive_method_is_refused_early_only_if_nothing_can_fit(host: Twin, limited: Limited) -> None:
    pruner = adaptive(1.0)
    length = host.length(ONE, pruner)
    limited.generate([ONE], pruner, length)
    assert f"has {length} tokens" in limited.refused([ONE], pruner, length - 1)
    assert limited.calls == 1
    least = host.length(ONE, LargeTokens(1e-9))
    message = limited.refused([ONE], pruner, least - 1)
    assert limited.calls == 0
    assert f"has at least {least} tokens after pruning" in message
    limited.refused([ONE], pruner, least)
    assert limited.calls == 1


def test_a_forward_without_generate(host: Twin, limited: Limited) -> None:
    length = host.length(ONE, LargeTokens(0.5))
    inputs = host.inputs([ONE])
    limited.limit(length)
    with tangovlm.attach(host.model, LargeTokens(0.5)), torch.no_grad():
        host.model(**inputs)
        limited.limit(length - 1 - 4 * has_free_newlines(host))
        limited.calls = 0
        with pytest.raises(InputError, match="after pruning"):
            host.model(**inputs)
    assert limited.calls == 0


def test_several_beams(host: Twin, limited: Limited) -> None:
    claims(host, "beams")
    rows = [ONE, OTHER] if "batch" in family_of(host).tested else [ONE]
    length = max(host.length(row, LargeTokens(0.5)) for row in rows)
    limited.generate(rows, LargeTokens(0.5), length, num_beams=2)
    assert f"has {length} tokens" in limited.refused(rows, LargeTokens(0.5), length - 1, num_beams=2)


@pytest.mark.parametrize("name", sorted(set(HOSTS) - set(FAMILIES)))
def test_other_models(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    host = HOSTS[name]()
    limited, length = Limited(host, monkeypatch), host.length(ONE, LargeTokens(0.5))
    limited.generate([ONE], LargeTokens(0.5), length)
    limited.refused([ONE], LargeTokens(0.5), length - 1)
    assert limited.calls == 0


# --- one family -------------------------------------------------------------------------------------------------------


@pytest.fixture
def one(monkeypatch: pytest.MonkeyPatch) -> Limited:
    return Limited(load("llava_onevision")(), monkeypatch)


def test_counts_of_a_release_are_checked_after_encoding(one: Limited) -> None:
    pruner = tangovlm.method("divprune", retention=0.5, exact=False)
    length = one.host.length(ONE, pruner)
    one.generate([ONE], pruner, length)
    one.refused([ONE], pruner, length - 1)
    assert one.calls == 1


def test_without_a_mask_padding_is_not_counted(one: Limited) -> None:
    """Stock code takes padding tokens for padding then."""
    rows, pruner = [(RandomWords(1, 1), Video(FRAMES, 2), RandomWords(40, 3)), ONE], LargeTokens(0.5)
    lengths = [one.host.length(row, pruner) for row in rows]
    one.generate(rows, pruner, max(lengths), without="attention_mask", pad_token_id=0)
    one.refused(rows, pruner, max(lengths) - 3, without="attention_mask", pad_token_id=0)
    assert one.calls == 0


def test_text_alone_beyond_the_context_proposes_no_number(one: Limited) -> None:
    for pruner in (LargeTokens(0.5), LargeTokens(1.0), FASTV):
        assert one.refused([ONE], pruner, 8).endswith("the model's context 8: give a shorter text")
        assert one.calls == 0


def test_a_single_frame_beyond_the_context(one: Limited) -> None:
    message = one.refused([(RandomWords(3, 1), Video(1, 2), RandomWords(5, 3))], FASTV, 16)
    assert message.endswith("give smaller frames, or a method that prunes before the language model")


def test_newlines_in_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    host = load("llava_video")()
    limited, pruner = Limited(host, monkeypatch), TopK(retention=0.5, signal="attn")
    limited.generate([ONE], pruner, 1000, newlines="counted")
    family = registry.family_for(host.model)(host.model)
    grid = family.layout.grid(FRAMES)
    kept = kept_of(plan(pruner, 2), "counted", family.layout, grid)
    assert kept.features.most == tangovlm.budget.count(0.5, family.layout.feature_count(grid))
    text = host.length(ONE, None) - family.layout.feature_count(grid)
    limited.generate([ONE], pruner, text + kept.features.most, newlines="counted")
    limited.refused([ONE], pruner, text + kept.features.least - 1, newlines="counted")
    assert limited.calls == 0
