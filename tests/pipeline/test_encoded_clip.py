"""Many questions about one encoded clip: the answers are those of `ask`, and the video is encoded once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import tangovlm
from tangovlm.errors import InputError, ModelError
from tangovlm.methods.build import Pair
from tangovlm.methods.topk import TopK
from tangovlm.pipeline.answer import Answer
from tangovlm.pipeline.load import VideoLLM
from tangovlm.tokens import Selection, VideoTokens
from tests.pipeline.test_ask_families import write_checkpoint
from tests.session.test_generate_families import HOSTS
from tests.support.checkpoints import write_clip
from tests.support.hosts import of_each_layout

QUESTIONS = ("w12 w30 w41", "w13", "w50 w51 w12 w14 w15 w16 w17", "w22 w23")
METHODS: dict[str, Any] = {
    "unpruned": tangovlm.method("tango", retention=1.0),
    "tango": tangovlm.method("tango", retention=0.3),
    "fastv": tangovlm.method("fastv", keep_ratio=0.5, layer=1),
    "tango+fastv": Pair(tangovlm.method("tango"), tangovlm.method("fastv", keep_ratio=0.5, layer=1), retention=0.4),
}
SAME = ("tokens_before", "tokens_after", "newlines_after", "segments", "tokens_per_layer", "method", "retention")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
NEW = 5


@pytest.fixture(scope="module", params=of_each_layout())
def llm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VideoLLM:
    folder = tmp_path_factory.mktemp(request.param)
    write_checkpoint(HOSTS[request.param](), folder)
    return tangovlm.load(folder)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "other.mp4", frames=7)


class Towers:
    """Counts the calls of the vision encoder."""

    def __init__(self, llm: VideoLLM, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        encoder, name = llm.family.encoder, llm.family.feature_method
        stock = getattr(encoder, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return stock(*args, **kwargs)

        counted.__wrapped__ = stock  # type: ignore[attr-defined]
        monkeypatch.setattr(encoder, name, counted)


def alone(llm: VideoLLM, clip: Path, method: Any) -> list[Answer]:
    try:
        return [tangovlm.ask(clip, each, model=llm, method=method, max_new_tokens=NEW) for each in QUESTIONS]
    except ModelError as error:
        pytest.skip(str(error))


def _prunes_inside(llm: VideoLLM) -> bool:
    return "pruning inside" in llm.family.tested


def same(one: Answer, other: Answer) -> bool:
    return one == other and all(getattr(one, name) == getattr(other, name) for name in SAME)


@pytest.mark.parametrize("name", METHODS)
def test_answers_are_those_of_lone_questions(
    llm: VideoLLM, clip: Path, other: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in another order, in batches, and after a question about another video."""
    expected = alone(llm, clip, METHODS[name])
    towers = Towers(llm, monkeypatch)
    encoded = llm.encode(clip, method=METHODS[name])
    answers = encoded.ask_all(QUESTIONS, max_new_tokens=NEW)
    assert all(map(same, answers, expected))
    assert towers.calls == 1
    tangovlm.ask(other, QUESTIONS[0], model=llm, method=METHODS[name], max_new_tokens=1)
    for question, answer in reversed(list(zip(QUESTIONS, expected, strict=True))):
        assert same(encoded.ask(question, max_new_tokens=NEW), answer)
    assert towers.calls == 2
    assert [answer.notes for answer in answers] == [answer.notes for answer in expected]
    assert (encoded.video is None) == ("fastv" in name)


def test_methods_share_the_features(llm: VideoLLM, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retentions, the unpruned model and methods inside it; a method with other signals encodes once more."""
    methods = {name: method for name, method in METHODS.items() if "fastv" not in name or _prunes_inside(llm)}
    expected = {name: alone(llm, clip, method) for name, method in methods.items()}
    towers = Towers(llm, monkeypatch)
    encoded = llm.encode(clip, method=METHODS["tango"])
    for name, method in methods.items():
        again = encoded.with_method(method).ask_all(QUESTIONS, max_new_tokens=NEW)
        assert all(map(same, again, expected[name]))
    assert towers.calls == 1
    fewer = encoded.with_method("tango", 0.1).ask(QUESTIONS[0], max_new_tokens=NEW)
    assert same(fewer, tangovlm.ask(clip, QUESTIONS[0], model=llm, retention=0.1, max_new_tokens=NEW))


def test_a_history_is_part_of_the_prompt(llm: VideoLLM, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if llm.family.prompt.template(None) is not None:
        pytest.skip("the family has a chat template of its own, which marks turns with more than spaces")
    encoded = llm.encode(clip, retention=0.3)
    history = [(QUESTIONS[0], "w33 w34"), (QUESTIONS[1], "w35")]
    # The template of this checkpoint joins the texts of all turns.
    joined = " ".join([*(text for turn in history for text in turn), QUESTIONS[2]])
    expected = tangovlm.ask(clip, joined, model=llm, retention=0.3, max_new_tokens=NEW)
    prompts = _prompts(llm, monkeypatch)
    assert encoded.ask(QUESTIONS[2], history=history, max_new_tokens=NEW) == expected
    assert encoded.ask(joined, max_new_tokens=NEW) == expected
    assert torch.equal(*prompts)


# --- one family ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> VideoLLM:
    folder = tmp_path_factory.mktemp("one")
    write_checkpoint(HOSTS["qwen2_5_vl"](), folder)
    return tangovlm.load(folder)


def test_a_method_with_other_signals_encodes_once_more(
    one: VideoLLM, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    towers = Towers(one, monkeypatch)
    encoded = one.encode(clip, method="uniform", retention=0.5)
    wider = encoded.with_method("tango", 0.5)
    assert towers.calls == 2
    for method in ("tango", "uniform", "divprune"):
        again = wider.with_method(method, 0.5).ask(QUESTIONS[0], max_new_tokens=NEW)
        assert towers.calls == 2
        monkeypatch.undo()
        assert same(
            again, tangovlm.ask(clip, QUESTIONS[0], model=one, method=method, retention=0.5, max_new_tokens=NEW)
        )
        towers = Towers(one, monkeypatch)
        towers.calls = 2


class Asked(TopK):
    """A method before the language model that reads what is asked, which is set from outside."""

    reads_question = True
    question = ""

    def __call__(self, tokens: VideoTokens) -> Selection:
        assert tokens.saliency is not None
        turned = tokens.saliency.flip(0) if self.question == QUESTIONS[1] else tokens.saliency
        return super().__call__(VideoTokens(tokens.features, saliency=turned, timestamps=tokens.timestamps))


def test_a_method_before_the_model_that_reads_the_question(
    one: VideoLLM, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = Asked(retention=0.2)
    expected = []
    for question in QUESTIONS[:2]:
        monkeypatch.setattr(Asked, "question", question)
        expected.append(tangovlm.ask(clip, question, model=one, method=method, max_new_tokens=NEW, record=True))
    kept = [answer.video.selection.indices for answer in expected if answer.video is not None]
    assert not torch.equal(*kept)
    towers = Towers(one, monkeypatch)
    encoded = one.encode(clip, method=method, record=True)
    for question, answer, indices in zip(QUESTIONS, expected, kept, strict=False):
        monkeypatch.setattr(Asked, "question", question)
        again = encoded.ask(question, max_new_tokens=NEW)
        assert same(again, answer)
        assert again.video is not None
        assert torch.equal(again.video.selection.indices, indices)
    assert towers.calls == 1


def test_batches_are_as_large_as_memory_allows(one: VideoLLM, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = one.encode(clip, retention=0.5)
    expected = [encoded.ask(question, max_new_tokens=NEW) for question in QUESTIONS]
    prompts = _prompts(one, monkeypatch)
    assert encoded.ask_all(QUESTIONS, max_new_tokens=NEW) == expected
    assert list(map(len, prompts)) == [len(QUESTIONS)]
    prompts.clear()
    monkeypatch.setattr("tangovlm.pipeline.encoded.prefix._BATCH_BYTES", 1)
    assert encoded.ask_all(QUESTIONS, max_new_tokens=NEW) == expected
    assert list(map(len, prompts)) == [1] * len(QUESTIONS)


def _prompts(llm: VideoLLM, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The prompts of the calls of `generate` that follow."""
    prompts: list[torch.Tensor] = []
    stock = llm.model.generate

    def generate(**inputs: Any) -> Any:
        prompts.append(inputs["input_ids"])
        return stock(**inputs)

    generate.__wrapped__ = stock  # type: ignore[attr-defined]
    monkeypatch.setattr(llm.model, "generate", generate)
    return prompts


def test_times(one: VideoLLM, clip: Path) -> None:
    encoded = one.encode(clip, retention=0.5)
    first, second = encoded.ask(QUESTIONS[0], max_new_tokens=NEW), encoded.ask(QUESTIONS[1], max_new_tokens=NEW)
    assert first.shared_ms == second.shared_ms
    assert set(first.shared_ms) == {"decode", "encode", "prune", "prefill"}
    assert all(0 < ms <= first.timings_ms[stage] for stage, ms in first.shared_ms.items())
    assert first.timings_ms["prefill"] > first.shared_ms["prefill"]
    assert first.timings_ms["decode_tokens"] > 0
    lone = tangovlm.ask(clip, QUESTIONS[0], model=one, max_new_tokens=NEW)
    assert not lone.shared_ms
    assert set(lone.timings_ms) == set(first.timings_ms)
    assert lone.as_dict().keys() == first.as_dict().keys()


def test_what_is_recorded_is_in_every_answer(one: VideoLLM, clip: Path) -> None:
    answers = one.encode(clip, retention=0.5, record=True).ask_all(QUESTIONS[:2], max_new_tokens=NEW)
    assert all(answer.video is not None for answer in answers)
    assert one.encode(clip, retention=0.5).ask(QUESTIONS[0], max_new_tokens=1).video is None


def test_bad_input(one: VideoLLM, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = one.encode(clip, retention=0.5)
    with pytest.raises(InputError, match="empty"):
        encoded.ask(" ")
    with pytest.raises(InputError, match="empty"):
        encoded.ask_all([QUESTIONS[0], ""])
    with pytest.raises(InputError, match="max_new_tokens"):
        encoded.ask(QUESTIONS[0], max_new_tokens=0)
    token = one.processor.video_token
    with pytest.raises(InputError, match="the history has"):
        encoded.ask(QUESTIONS[0], history=[("w12", token)])
    assert encoded.ask_all([]) == []
    with pytest.raises(InputError, match="give a list"):
        encoded.ask_all(QUESTIONS[0])
    with pytest.raises(InputError, match="list of questions with their answers"):
        encoded.ask(QUESTIONS[0], history=[{"w12": "w13"}])  # type: ignore[list-item]
    assert len(encoded.ask_all(each for each in QUESTIONS[:2])) == 2
    limit = encoded.video.tokens_after + 12  # type: ignore[union-attr]
    monkeypatch.setattr(one.family.decoder.config, "max_position_embeddings", limit)
    encoded.ask(QUESTIONS[1], max_new_tokens=1)
    with pytest.raises(InputError, match=rf"the model's context {limit}: give retention=0\.\d+"):
        encoded.ask(" ".join(QUESTIONS), max_new_tokens=1)


def test_questions_beyond_the_context_are_refused_before_encoding(
    one: VideoLLM, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after = one.encode(clip, retention=0.5).video.tokens_after  # type: ignore[union-attr]
    monkeypatch.setattr(one.family.decoder.config, "max_position_embeddings", after + 12)
    towers = Towers(one, monkeypatch)
    asked = [QUESTIONS[1], " ".join(QUESTIONS)]
    for refused in (
        lambda: one.encode(clip, retention=0.5, questions=asked),
        lambda: tangovlm.ask(clip, asked, model=one, retention=0.5),
        lambda: tangovlm.ask(clip, asked[1], model=one, retention=0.5),
        lambda: one.encode(clip, method=METHODS["fastv"], questions=asked[:1]),
    ):
        with pytest.raises(InputError, match="the model's context"):
            refused()
    with pytest.raises(InputError, match="empty"):
        one.encode(clip, retention=0.5, questions=[" "])
    assert towers.calls == 0
    encoded = one.encode(clip, retention=0.5, questions=asked[:1])
    assert encoded.ask(asked[0], max_new_tokens=1).tokens_after == after


def test_ask_accepts_several_questions(one: VideoLLM, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"model": one, "retention": 0.5, "max_new_tokens": NEW}
    expected = [tangovlm.ask(clip, question, **options) for question in QUESTIONS]
    towers = Towers(one, monkeypatch)
    stages: list[str] = []
    options["progress"] = lambda stage, _done, _total: stages.append(stage)
    assert tangovlm.ask(clip, list(QUESTIONS), **options) == expected
    assert towers.calls == 1
    assert set(stages) == {"decode", "encode", "generate"}
    with pytest.raises(InputError, match="empty"):
        tangovlm.ask(clip, (QUESTIONS[0], ""), **options)
