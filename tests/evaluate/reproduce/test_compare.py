"""Rows are compared question by question."""

import json

import pytest

from tangovlm.evaluate.reproduce import compare, planning
from tangovlm.evaluate.reproduce.harnesses import answers
from tangovlm.evaluate.reproduce.paper import Paper
from tests.support.reproduce import CLIPS, FOUR, results


def test_differences_are_paired_and_of_the_average(made: planning.Plan) -> None:
    baseline, tango = results(0, 0.9), results(1, 0.5)
    lines = compare.compare(made, {"100-all-tokens": baseline, "10-tango": tango}, Paper())
    whole, own, text, release = lines
    averages = [answers.scores(each, FOUR)["average"] for each in (baseline, tango)]
    assert own.against_baseline is not None
    assert own.against_baseline.value == pytest.approx(averages[1] - averages[0])  # type: ignore[operator]
    assert own.against_baseline.clear
    assert own.against_baseline.low < own.against_baseline.value < own.against_baseline.high  # type: ignore[operator]
    assert own.share == pytest.approx(100 * averages[1] / averages[0])  # type: ignore[operator]
    assert (whole.share, whole.against_baseline, own.against_tango) == (100, None, None)
    assert (text.results, release.ours, release.share) == (None, {}, None)


def test_a_row_against_itself_differs_by_nothing(made: planning.Plan) -> None:
    same = results(0, 0.6)
    lines = compare.compare(made, {"100-all-tokens": same, "10-tango": same, "10-tango-the-release": same}, Paper())
    for estimate in (lines[1].against_baseline, lines[3].against_tango):
        assert estimate is not None
        assert (estimate.value, estimate.low, estimate.high, estimate.clear) == (0, 0, 0, False)


def test_few_clips_have_no_interval_and_other_questions_no_difference(made: planning.Plan) -> None:
    few, other = results(0, 0.5, clips=3), results(1, 0.5, clips=4)
    (_, own, *_) = compare.compare(made, {"100-all-tokens": few, "10-tango": results(2, 0.5, clips=3)}, Paper())
    assert own.against_baseline is not None
    assert own.against_baseline.low is None
    (_, own, *_) = compare.compare(made, {"100-all-tokens": few, "10-tango": other}, Paper())
    assert own.against_baseline is None


def test_a_line_as_json_has_everything(made: planning.Plan) -> None:
    lines = compare.compare(made, {"100-all-tokens": results(0, 0.9), "10-tango": results(1, 0.5)}, Paper())
    parsed = json.loads(json.dumps([line.as_dict() for line in lines], allow_nan=False))
    assert parsed[1]["published"]["mvbench"] is None
    assert parsed[1]["difference"]["mvbench"] is None
    assert parsed[1]["questions"] == 4 * 2 * CLIPS
    assert parsed[1]["hyper_parameters"]["retention"] == 0.1
    assert parsed[2]["ours"] == {}
