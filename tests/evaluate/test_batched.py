"""Batched answers are those of `attach` and `generate`."""

import pytest
import torch

from tangovlm import registry
from tangovlm.evaluate.batched import BatchedAnswerer
from tangovlm.evaluate.clip_encoder import ClipEncoder, pruned_video, select
from tangovlm.evaluate.runner import answer_clips
from tangovlm.evaluate.runs import Run, build_run, unpruned_run
from tangovlm.evaluate.stock_generate import answer_question
from tangovlm.evaluate.tangoworld import ClipQuestions, render_clip
from tangovlm.pipeline.load import VideoLLM


def runs() -> list[Run]:
    pre_llm = [name for name, cls in registry.methods().items() if getattr(cls, "stage", "") == "pre-llm"]
    return [
        unpruned_run(),
        *(build_run(name, 0.1) for name in pre_llm),
        build_run("tango", 0.1, saliency="attn"),
        build_run("tango", 0.1, positions="original"),
        build_run("tango", 0.1, segmentation="fastvid", frames=5),
    ]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_method_answers_as_attached(llm: VideoLLM, clip: ClipQuestions) -> None:
    encoder, answerer = ClipEncoder(llm), BatchedAnswerer(llm)
    answers = {
        (answer.run, answer.number): answer
        for of_clip in answer_clips(llm, dict(enumerate(runs())), [clip], (), lambda _: None)
        for answer in of_clip
    }
    for number, run in enumerate(runs()):
        rendered = render_clip(clip.clip(), run.frames or clip.length)
        pixels = encoder.pixels(rendered.pixels)
        encoded = encoder.encode(pixels, rendered.seconds, {run.saliency: run.needs})
        questions = [each.question for each in clip.questions]
        before, after = answerer.prompts(pixels, [question.text for question in questions])
        selection = select(run, encoded)
        (fast,) = answerer.replies([pruned_video(encoded, selection, run.positions)], before, after, questions)
        # One question under each method, all of them where nothing is pruned.
        for place in range(len(questions)) if run.unpruned else [number % len(questions)]:
            question, asked = questions[place], clip.questions[place]
            family = encoder.family(run.saliency)
            slow, kept = answer_question(llm, family, run, pixels, rendered.seconds, question)
            assert fast[place].answer == slow.answer, run
            torch.testing.assert_close(
                torch.tensor(fast[place].likelihoods), torch.tensor(slow.likelihoods), atol=1e-4, rtol=0
            )
            answer = answers[number, asked.number]
            assert answer.answer == slow.answer
            assert answer.exact == (slow.answer == question.answer)
            assert answer.chosen == (slow.best(question) == question.answer)
            assert answer.tokens == kept


def test_questions_about_a_long_clip_are_answered_a_few_at_a_time(
    llm: VideoLLM, clip: ClipQuestions, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, answerer = ClipEncoder(llm), BatchedAnswerer(llm)
    rendered = render_clip(clip.clip(), clip.length)
    pixels = encoder.pixels(rendered.pixels)
    asked = [build_run("random", 0.5), build_run("uniform", 0.5)]
    encoded = encoder.encode(pixels, rendered.seconds, {run.saliency: run.needs for run in asked})
    videos = [pruned_video(encoded, select(run, encoded), run.positions) for run in asked]
    questions = [each.question for each in clip.questions]
    assert len(questions) == 3
    before, after = answerer.prompts(pixels, [question.text for question in questions])
    together = list(answerer.replies(videos, before, after, questions))
    forwards, forward = [], answerer._prefill_questions

    def count(*arguments: object) -> object:
        forwards.append(len(arguments[2]))  # type: ignore[arg-type]
        return forward(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(answerer, "_prefill_questions", count)
    monkeypatch.setattr("tangovlm.evaluate.batched._MAX_CACHED_POSITIONS", 2 * (len(videos[0].features) + 40))
    apart = list(answerer.replies(videos, before, after, questions))
    assert forwards == [2, 1, 2, 1]
    for first, second in zip(together, apart, strict=True):
        assert [reply.answer for reply in first] == [reply.answer for reply in second]
        for a, b in zip(first, second, strict=True):
            assert a.likelihoods == pytest.approx(b.likelihoods, abs=1e-4)
