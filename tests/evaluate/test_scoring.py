"""The short cuts of the benchmark give what `attach` and `generate` give."""

import pytest
import torch

from tangovlm import registry
from tangovlm.errors import ModelError, TangoError
from tangovlm.evaluate import attached
from tangovlm.evaluate.runner import accuracy, answers, select
from tangovlm.evaluate.runs import Run, run, unpruned
from tangovlm.evaluate.scoring import Scorer, visual
from tangovlm.evaluate.task import Case, cases, view
from tangovlm.pipeline.load import VideoLLM, load


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer(load(device="cpu"))


@pytest.fixture(scope="module")
def case() -> Case:
    """A short clip with questions of one word and of several."""
    wanted = {"read", "position", "color"}
    fitting = (c for c in cases() if c.length == 8 and wanted <= {asked.question.kind for asked in c.asked})
    chosen = next(fitting)
    return Case(chosen.cell, chosen.draw, chosen.digest, tuple(a for a in chosen.asked if a.question.kind in wanted))


def runs() -> list[Run]:
    pre_llm = [name for name, cls in registry.methods().items() if getattr(cls, "stage", "") == "pre-llm"]
    return [
        unpruned(),
        *(run(name, 0.1) for name in pre_llm),
        run("tango", 0.1, saliency="attn"),
        run("tango", 0.1, positions="original"),
        run("tango", 0.1, segmentation="fastvid", frames=5),
    ]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_method_scores_as_attached(scorer: Scorer, case: Case) -> None:
    rows = {(row.run, row.number): row for rows in answers(scorer.llm, dict(enumerate(runs())), [case], (), _no)
            for row in rows}  # fmt: skip
    clip = case.clip()
    for number, each in enumerate(runs()):
        seen = view(clip, each.frames or case.length)
        pixels = scorer.pixels(seen.pixels)
        encoded = scorer.encode(pixels, seen.seconds, {each.saliency: each.needs})
        questions = [asked.question for asked in case.asked]
        before, behind = scorer.prompts(pixels, [question.text for question in questions])
        selection = select(each, encoded)
        (fast,) = scorer.replies([visual(encoded, selection, each.positions)], before, behind, questions)
        # One question under each method, all of them where nothing is pruned.
        for place in range(len(questions)) if each.unpruned else [number % len(questions)]:
            question, asked = questions[place], case.asked[place]
            family = scorer.family(each.saliency)
            slow, kept = attached.reply(scorer.llm, family, each, pixels, seen.seconds, question)
            assert fast[place].answer == slow.answer, each
            torch.testing.assert_close(
                torch.tensor(fast[place].likelihoods), torch.tensor(slow.likelihoods), atol=1e-4, rtol=0
            )
            row = rows[number, asked.number]
            assert row.answer == slow.answer
            assert row.exact == (slow.answer == question.answer)
            assert row.chosen == (slow.best(question) == question.answer)
            assert row.tokens == kept


def test_a_method_inside_the_model_is_asked_by_itself(scorer: Scorer, case: Case) -> None:
    within = run("fastv", 0.75)
    assert within.in_llm
    assert not scorer.shares(within)
    (rows,) = answers(scorer.llm, {0: within, 1: unpruned()}, [case], (), _no)
    assert [(row.run, row.number) for row in rows] == sorted((n, a.number) for n in (0, 1) for a in case.asked)
    assert {row.look is None for row in rows if row.run == 0} == {True}
    assert {row.look is None for row in rows if row.run == 1} == {False}
    scorer.check([within])
    with pytest.raises(TangoError, match="out of reach"):
        scorer.check([run("fastv", 0.01)])


def test_a_saliency_that_the_model_does_not_give(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(scorer.llm.family), "saliency_kinds", ("attn",))
    fewer = Scorer(scorer.llm)
    fewer.check([run("tango", 0.1, saliency="attn"), run("uniform", 0.1, saliency="p-attn")])
    with pytest.raises(ModelError, match=r"saliency 'p-attn', which the family [\w-]+ does not give"):
        fewer.check([run("tango", 0.1, saliency="p-attn")])


def test_done_answers_are_left_out(scorer: Scorer, case: Case) -> None:
    done = {(0, asked.number) for asked in case.asked[1:]}
    told: list[int] = []
    (rows,) = answers(scorer.llm, {0: unpruned()}, [case], done, told.append)
    assert [row.number for row in rows] == [case.asked[0].number]
    assert sum(told) == len(case.asked)
    done.add((0, case.asked[0].number))
    assert list(answers(scorer.llm, {0: unpruned()}, [case], done, _no)) == []


def test_accuracy_by_kind(scorer: Scorer, case: Case) -> None:
    found = accuracy(scorer.llm, unpruned(), [case])
    assert set(found) == {asked.question.kind for asked in case.asked}
    assert set(found.values()) <= {0.0, 1.0}


def test_nan_is_reported(case: Case) -> None:
    broken: VideoLLM = load(device="cpu")
    with torch.no_grad():
        broken.family.decoder.layers[0].mlp.down_proj.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN"):
        list(answers(broken, {0: unpruned()}, [case], (), _no))


def _no(_: int) -> None:
    """Tell nobody."""
