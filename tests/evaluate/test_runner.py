"""Runs of the benchmark: which questions are answered, how, and what is reported."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from tangovlm.evaluate.batched import BatchedAnswerer
from tangovlm.evaluate.runner import accuracy, answer_clips
from tangovlm.evaluate.runs import Run, build_run, unpruned_run
from tangovlm.evaluate.tangoworld import ClipQuestions
from tangovlm.methods.uniform import Uniform
from tangovlm.pipeline.load import VideoLLM, load


def test_a_method_inside_the_model_is_asked_by_itself(llm: VideoLLM, clip: ClipQuestions) -> None:
    inside = build_run("fastv", 0.75)
    assert inside.in_llm
    assert not BatchedAnswerer(llm).supports(inside)
    (answers,) = answer_clips(llm, {0: inside, 1: unpruned_run()}, [clip], (), _ignore)
    assert [(each.run, each.number) for each in answers] == sorted(
        (number, asked.number) for number in (0, 1) for asked in clip.questions
    )
    assert {each.coverage is None for each in answers if each.run == 0} == {True}
    assert {each.coverage is None for each in answers if each.run == 1} == {False}


def test_questions_share_a_prefill_only_if_the_method_does_not_read_them(llm: VideoLLM) -> None:
    @dataclass(frozen=True)
    class Reader(Uniform):
        reads_question: ClassVar[bool] = True

    answerer = BatchedAnswerer(llm)
    assert answerer.supports(Run("uniform", "10 %", Uniform(retention=0.1)))
    assert not answerer.supports(Run("reader", "10 %", Reader(retention=0.1)))
    # Nothing is selected.
    assert answerer.supports(Run("reader", "100 %", Reader(retention=1.0)))
    assert not answerer.supports(build_run("flexselect", 0.1))


def test_finished_answers_are_skipped(llm: VideoLLM, clip: ClipQuestions) -> None:
    done = {(0, asked.number) for asked in clip.questions[1:]}
    progress: list[int] = []
    (answers,) = answer_clips(llm, {0: unpruned_run()}, [clip], done, progress.append)
    assert [answer.number for answer in answers] == [clip.questions[0].number]
    assert sum(progress) == len(clip.questions)
    done.add((0, clip.questions[0].number))
    assert list(answer_clips(llm, {0: unpruned_run()}, [clip], done, _ignore)) == []


def test_accuracy_by_kind(llm: VideoLLM, clip: ClipQuestions) -> None:
    by_kind = accuracy(llm, unpruned_run(), [clip])
    assert set(by_kind) == {asked.question.kind for asked in clip.questions}
    assert set(by_kind.values()) <= {0.0, 1.0}


def test_nan_is_reported(clip: ClipQuestions) -> None:
    broken: VideoLLM = load(device="cpu")
    with torch.no_grad():
        broken.family.decoder.layers[0].mlp.down_proj.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN"):
        list(answer_clips(broken, {0: unpruned_run()}, [clip], (), _ignore))


def _ignore(_: int) -> None:
    """Progress that nobody reads."""
