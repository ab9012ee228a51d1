"""Position ids and saliency chosen by the caller: same tokens as the reference without hooks and caches."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

import tangovlm
from tangovlm.errors import InputError, ModelError
from tangovlm.models.llava_onevision import LlavaOnevision
from tangovlm.selfcheck.twins.common.norms import Norms
from tangovlm.selfcheck.twins.common.parts import VIDEO
from tangovlm.tokens import Selection, VideoTokens
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

FRAMES, NEW = 3, 5
GREEDY: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False}


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def model(request: pytest.FixtureRequest) -> Any:
    made = make_model(attention=request.param)
    # On first use, transformers itself installs hooks for hidden states.
    made.generate(**prompts(made), **GREEDY)
    return made


def rows(model: Any) -> list[list[int]]:
    video = placeholders(model, FRAMES)
    return [[*words(2, 1), *video, *words(4, 2)], [*words(6, 3), *video, *words(3, 4), *video, *words(5, 5)]]


def prompts(model: Any) -> dict[str, Any]:
    return pad_left(rows(model)) | {"pixel_values_videos": make_videos(model, 3, FRAMES)}


def kept_positions(row: list[int], selections: list[Selection]) -> torch.Tensor:
    """Position ids of the kept tokens of a prompt."""
    places, place, waiting = [], 0, list(selections)
    while place < len(row):
        if row[place] == VIDEO:
            selection = waiting.pop(0)
            size = selection.sources.numel()
            places += [place + index for index in selection.indices.tolist()] + [place + size]
            place += size + 1
        else:
            places.append(place)
            place += 1
    return torch.tensor(places)


@torch.no_grad()
def greedy(model: Any, embeds: torch.Tensor, positions: torch.Tensor, new: int = NEW) -> list[int]:
    said: list[int] = []
    for _ in range(new):
        output = model.model.language_model(
            inputs_embeds=embeds[None],
            position_ids=positions[None],
            attention_mask=torch.ones(1, len(positions)),
            use_cache=False,
        )
        said.append(int(model.lm_head(output.last_hidden_state[0, -1]).argmax()))
        embeds = torch.cat([embeds, model.get_input_embeddings().weight[said[-1]][None]])
        positions = torch.cat([positions, positions[-1:] + 1])
    return said


def wanted(model: Any, pruner: Any) -> list[list[int]]:
    videos = make_videos(model, 3, FRAMES)
    answers = []
    for row, own in zip(rows(model), (videos[:1], videos[1:]), strict=True):
        chosen = [select(model, pruner, video) for video in own]
        positions = kept_positions(row, [selection for selection, _ in chosen])
        answers.append(greedy(model, embed_row(model, row, chosen, None), positions))
    return answers


@pytest.mark.parametrize("way", [{}, {"use_cache": False}, {"cache_implementation": "static"}])
def test_original_positions(model: Any, way: dict[str, Any]) -> None:
    pruner, inputs = Norms(0.2), prompts(model)
    start = inputs["input_ids"].shape[1]
    with tangovlm.attach(model, pruner, positions="original"):
        got = model.generate(**inputs, **GREEDY, **way)[:, start:].tolist()
    assert got == wanted(model, pruner)
    with tangovlm.attach(model, pruner):
        assert model.generate(**inputs, **GREEDY)[:, start:].tolist() != got


def test_original_positions_of_one_prompt_without_a_cache(model: Any) -> None:
    """Without padding and cache, only the mask shows stock code that gaps are not borders of packed prompts."""
    row, videos = rows(model)[0], make_videos(model, 1, FRAMES)
    pruner = Norms(0.2)
    with torch.no_grad(), tangovlm.attach(model, pruner, positions="original"):
        logits = model(**pad_left([row]), pixel_values_videos=videos, use_cache=False).logits[0, -1]
    selection = select(model, pruner, videos[0])
    positions = kept_positions(row, [selection[0]])
    assert [int(logits.argmax())] == greedy(model, embed_row(model, row, [selection], None), positions, new=1)


def test_original_positions_over_two_turns(model: Any) -> None:
    pruner, videos = Norms(0.2), make_videos(model, 2, FRAMES)
    row, question = rows(model)[0], [*words(2, 8), *placeholders(model, FRAMES), *words(3, 9)]
    options = GREEDY | {"return_dict_in_generate": True}
    with tangovlm.attach(model, pruner, positions="original"):
        first = model.generate(**pad_left([row]), pixel_values_videos=videos[:1], **options)
        ids = first.sequences[0].tolist() + question
        second = model.generate(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            past_key_values=first.past_key_values,
            pixel_values_videos=videos[1:],
            **options,
        )
    chosen = [select(model, pruner, video) for video in videos]
    positions = kept_positions(ids, [selection for selection, _ in chosen])
    assert second.sequences[0, len(ids) :].tolist() == greedy(model, embed_row(model, ids, chosen, None), positions)


def test_restored_and_refused(model: Any) -> None:
    before = state_of(model)
    with tangovlm.attach(model, Norms(), positions="original"):
        model.generate(**prompts(model), **GREEDY)
    assert state_of(model) == before
    with pytest.raises(InputError, match=r"positions is 'packed': choose 'contiguous' or 'original'"):
        tangovlm.attach(model, Norms(), positions="packed").__enter__()


@dataclass(frozen=True)
class Wants:
    """A method that records the saliency of its inputs."""

    seen: list[torch.Tensor]
    signal: str = "attn"
    retention: float = 0.5
    needs: frozenset[str] = frozenset({"saliency"})
    name: ClassVar[str] = "wants"

    def __call__(self, tokens: VideoTokens) -> Selection:
        assert tokens.saliency is not None
        self.seen.append(tokens.saliency)
        return Norms(self.retention)(tokens)


def observed(model: Any, **options: Any) -> torch.Tensor:
    pruner = Wants([], options.pop("signal", "attn"))
    with tangovlm.attach(model, pruner, **options):
        model.generate(**prompts(model), **GREEDY)
    return torch.stack(pruner.seen)


def test_a_method_gets_the_saliency_of_its_signal(model: Any) -> None:
    full, pooled = observed(model, saliency="attn"), observed(model, saliency="p-attn")
    assert not torch.allclose(full, pooled)
    assert torch.equal(observed(model), full)
    assert torch.equal(observed(model, signal="p-attn"), pooled)


def test_a_signal_that_the_family_does_not_provide(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LlavaOnevision.signals, "saliency_kinds", ("p-attn",))
    with pytest.raises(
        ModelError, match=r"'wants' needs the saliency 'attn', which the family llava-onevision does not"
    ):
        tangovlm.attach(model, Wants([]), saliency="attn").__enter__()
    assert torch.equal(observed(model), observed(model, saliency="p-attn"))
    with tangovlm.attach(model, Wants([])) as session:
        model.generate(**prompts(model), **GREEDY)
    assert "does not provide the saliency 'attn': 'p-attn' is used" in " ".join(session.report.notes)
    monkeypatch.setattr(LlavaOnevision.signals, "provides", frozenset({"timestamps"}))
    with pytest.raises(ModelError, match=r"'wants' needs saliency, which the family llava-onevision does not provide"):
        tangovlm.attach(model, Wants([])).__enter__()
