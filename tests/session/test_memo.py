"""A memo of the encoder: calls with the same pixels encode once, with unchanged answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tangovlm
from tangovlm.errors import ModelError
from tangovlm.models.common.transformers_compat import Arg
from tangovlm.pipeline.load import VideoLLM, load
from tangovlm.session.attach import attach_family
from tangovlm.session.memo import Memo
from tests.pipeline.test_ask_families import FRAMES, write_checkpoint
from tests.session.test_generate_families import HOSTS
from tests.support.checkpoints import write_clip
from tests.support.hosts import of_each_layout

QUESTIONS = ("w12 w30 w41", "w13", "w50 w51 w12 w14")
METHODS = {
    "unpruned": tangovlm.method("tango", retention=1.0),
    "tango": tangovlm.method("tango", retention=0.3),
    "fastv": tangovlm.method("fastv", keep_ratio=0.5, layer=1),
}


@pytest.fixture(scope="module", params=of_each_layout())
def llm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VideoLLM:
    folder = tmp_path_factory.mktemp(request.param)
    write_checkpoint(HOSTS[request.param](), folder)
    return load(folder)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


def inputs(llm: VideoLLM, clip: Path, question: str) -> dict[str, Any]:
    prompt = llm.processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": question}]}],
        add_generation_prompt=True,
    )
    return dict(llm.processor([prompt], [clip], num_frames=FRAMES))


def generated(llm: VideoLLM, method: Any, given: dict[str, Any], memo: Memo | None) -> tuple[Tensor, Any]:
    with attach_family(llm.family, method, timestamps=torch.arange(FRAMES), memo=memo) as session:
        output = llm.model.generate(
            **given, max_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
    return torch.stack(output.logits), session.report


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", METHODS)
def test_later_questions_have_unchanged_answers(llm: VideoLLM, clip: Path, name: str) -> None:
    method, memo = METHODS[name], Memo()
    try:
        with attach_family(llm.family, method):
            pass
    except ModelError as error:
        pytest.skip(str(error))
    asked = [inputs(llm, clip, question) for question in QUESTIONS]
    words = {Arg.IDS, Arg.MASK, *llm.family.prompt.token_types(asked[0][Arg.IDS])}
    media = {key: value for key, value in asked[0].items() if key not in words}
    for number, given in enumerate(asked):
        alone, report = generated(llm, method, given, None)
        again, second = generated(llm, method, given | media, memo)
        assert torch.equal(alone, again)
        assert memo.hits == number
        for one, other in zip(report.videos, second.videos, strict=True):
            same = ("tokens_before", "tokens_after", "segments", "tokens_per_layer", "notes")
            assert [getattr(one, each) for each in same] == [getattr(other, each) for each in same]
        if number:
            assert second.timings_ms["encode"] == second.timings_ms["prune"] == 0


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_beams_do_not_change_stored_features(llm: VideoLLM, clip: Path) -> None:
    memo, given = Memo(), inputs(llm, clip, QUESTIONS[0])
    alone, _ = generated(llm, METHODS["tango"], given, None)
    options: dict[str, Any] = {"max_new_tokens": 2, "do_sample": False}
    try:
        llm.model.generate(**given, num_beams=2, **options)
        with attach_family(llm.family, METHODS["tango"], timestamps=torch.arange(FRAMES)):
            llm.model.generate(**given, num_beams=2, **options)
    except ValueError as error:
        pytest.skip(f"the stock model does not support beams for videos: {error}")
    for beams in (2, 2, 1):
        with attach_family(llm.family, METHODS["tango"], timestamps=torch.arange(FRAMES), memo=memo):
            llm.model.generate(**given, num_beams=beams, **options)
    again, _ = generated(llm, METHODS["tango"], given, memo)
    assert torch.equal(alone, again)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_other_or_changed_pixels_are_encoded(llm: VideoLLM, clip: Path) -> None:
    memo, given = Memo(), inputs(llm, clip, QUESTIONS[0])
    generated(llm, METHODS["tango"], given, memo)
    copied = {key: value.clone() for key, value in given.items()}
    generated(llm, METHODS["tango"], copied, memo)
    assert memo.hits == 0
    generated(llm, METHODS["tango"], copied, memo)
    assert memo.hits == 1
    name = next(key for key, value in copied.items() if value.is_floating_point())
    copied[name].mul_(0.5)
    alone, _ = generated(llm, METHODS["tango"], copied, None)
    changed, _ = generated(llm, METHODS["tango"], copied, memo)
    assert memo.hits == 1 and torch.equal(alone, changed)
