"""The look at the embedded model by stock calls alone."""

import json

import pytest

from tangovlm.tiny.evaluate import held_out_questions, main
from tangovlm.tiny.synthetic.questions import KINDS


def test_questions_are_even_over_the_kinds_and_repeatable() -> None:
    counts = dict.fromkeys(KINDS, 0)
    texts = []
    for _, asked in held_out_questions(20):
        for question in asked:
            counts[question.kind] += 1
            texts.append(question.text)
    assert sorted(counts.values(), reverse=True) == [3, 3, 2, 2, 2, 2, 2, 2, 2]
    assert texts == [question.text for _, asked in held_out_questions(20) for question in asked]


def test_the_command_ends_with_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--questions", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"accuracy", "exact_match", "by_kind", "questions"} <= set(result)
    assert result["questions"] == 2


def test_the_command_refuses_a_wrong_retention(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--retention", "1.5"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
