"""Scores by the rule of each benchmark."""

from dataclasses import replace

import pytest

from tangovlm.evaluate.reproduce.harnesses import answers
from tangovlm.evaluate.reproduce.harnesses.answers import Answer, Results
from tests.support.reproduce import FOUR


def test_scores_follow_the_rule_of_each_benchmark() -> None:
    # MLVU: all three of one category, none of the single one of the other.
    mlvu = [Answer("mlvu", str(n), "a", "order" if n else "count", "", n > 0) for n in range(4)]
    lvb = [replace(each, benchmark="longvideobench") for each in mlvu]
    videomme = [Answer("videomme", str(n), "a", "x", ("short", "long")[n % 2], n % 2 == 0) for n in range(4)]
    own = Results((*mlvu, *lvb, *videomme), {}, "")
    scored = answers.scores(own, FOUR)
    assert scored == {
        "mvbench": None, "longvideobench": 75.0, "mlvu": 50.0, "videomme": 50.0,
        "videomme/short": 100.0, "videomme/medium": None, "videomme/long": 0.0, "average": pytest.approx(175 / 3),
    }  # fmt: skip
    weighed = answers.weights(own.answers, FOUR)
    mean = sum(w * each.right for w, each in zip(weighed, own.answers, strict=True)) / len(own.answers)
    assert 100 * mean == pytest.approx(scored["average"])
