"""What rows are compared with: references per question, and the interpolation between fixed counts."""

from dataclasses import replace

import numpy as np
import pytest

from tangovlm.evaluate.runs import Run, build_run, unpruned_run
from tangovlm.evaluate.tables.comparison import AllTokens, Answers, Defaults, FixedCounts, interpolate
from tests.evaluate.tables.adaptive_method import Adaptive

LENGTHS = np.array([8, 8, 64, 64])
FIXED = [Run(f"{share:g}", "fixed", Adaptive(share, threshold=None)) for share in (0.1, 0.2, 0.4)]
FOLLOWING = Run("following", "adaptive", Adaptive(0.5, threshold=3))


def answers_of(runs: dict[Run, tuple[list[float], list[float]]]) -> Answers:
    return Answers(
        tuple(runs),
        LENGTHS,
        {run.key: np.array(exact, float) for run, (exact, _) in runs.items()},
        {run.key: np.array(tokens, float) for run, (_, tokens) in runs.items()},
    )


@pytest.mark.parametrize(
    ("target", "places", "weights"),
    [
        (3.0, [8.0, 2.0, 4.0], [0, 0.5, 0.5]),
        (2.5, [2.0, 4.0], [0.75, 0.25]),
        (2.0, [2.0, 4.0], [1, 0]),
        (4.0, [2.0, 4.0], [0, 1]),
        (4.0, [2.0, 4.0, 4.0], [0, 1, 0]),
        (1.9, [2.0, 4.0], None),
        (4.1, [2.0, 4.0], None),
        (4.0, [], None),
    ],
)
def test_interpolation(target: float, places: list[float], weights: list[float] | None) -> None:
    found = interpolate(target, places)
    assert (found is None) == (weights is None)
    if found is not None:
        np.testing.assert_allclose(found, weights)
        assert float(np.dot(found, places)) == pytest.approx(target)


def test_fixed_counts_at_equal_mean_tokens() -> None:
    answers = answers_of(
        {
            unpruned_run(): ([1, 1, 1, 1], [50, 50, 400, 400]),
            FIXED[0]: ([0, 0, 0, 1], [5, 5, 40, 40]),
            FIXED[1]: ([0, 1, 1, 1], [10, 10, 80, 80]),
            FIXED[2]: ([1, 1, 1, 1], [20, 20, 160, 160]),
            FOLLOWING: ([1, 1, 0, 1], [20, 10, 40, 50]),
        }
    )
    # 30 tokens on average are a third of the way from 22.5 to 45.
    third = FixedCounts().reference(FOLLOWING, answers)
    assert third is not None
    np.testing.assert_allclose(third, [0, 1 / 3, 1 / 3, 1])
    # 15 tokens of short clips are half-way from 10 to 20, and 45 of long ones an eighth from 40 to 80.
    by_length = FixedCounts(per_length=True).reference(FOLLOWING, answers)
    assert by_length is not None
    np.testing.assert_allclose(by_length, [0.5, 1, 0.125, 1])
    assert FixedCounts().reference(FIXED[0], answers) is None
    assert FixedCounts().reference(answers.runs[0], answers) is None


def test_no_reference_outside_the_fixed_counts() -> None:
    answers = answers_of(
        {
            FIXED[0]: ([0, 0, 0, 1], [5, 5, 40, 40]),
            FIXED[1]: ([0, 1, 1, 1], [10, 10, 80, 80]),
            FOLLOWING: ([1, 1, 0, 1], [20, 20, 40, 40]),
        }
    )
    assert FixedCounts().reference(FOLLOWING, answers) is not None
    by_length = FixedCounts(per_length=True).reference(FOLLOWING, answers)
    assert by_length is not None
    np.testing.assert_allclose(by_length, [np.nan, np.nan, 0, 1])


def test_fixed_counts_are_those_of_the_same_method_and_positions() -> None:
    tokens = ([0.0] * 4, [5.0] * 4)
    others = [build_run("uniform", 0.1), replace(FIXED[0], positions="original"), replace(FIXED[0], frames=8)]
    for other in others:
        assert FixedCounts().reference(FOLLOWING, answers_of({other: tokens, FOLLOWING: tokens})) is None
    both = answers_of({FIXED[0]: tokens, FOLLOWING: tokens})
    assert FixedCounts().reference(FOLLOWING, both) is not None


def test_all_tokens_of_some_frames() -> None:
    whole, few, run = unpruned_run(), unpruned_run(16), build_run("tango", 0.1, frames=16)
    answers = answers_of({each: ([n] * 4, [n] * 4) for n, each in enumerate((whole, few, run))})
    for comparison, value in ((AllTokens(), 0), (AllTokens(16), 1)):
        reference = comparison.reference(run, answers)
        assert reference is not None and reference.tolist() == [value] * 4
    assert AllTokens().reference(whole, answers) is None
    assert AllTokens(16).reference(few, answers) is None
    assert AllTokens(8).reference(run, answers) is None
    assert (AllTokens().name, AllTokens(16).name) == ("unpruned", "unpruned_16_frames")


def test_defaults_of_a_method() -> None:
    default, other = build_run("tango", 0.1), build_run("tango", 0.1, merge=False)
    elsewhere = build_run("tango", 0.1, positions="original")
    answers = answers_of({each: ([n] * 4, [n] * 4) for n, each in enumerate((other, default, elsewhere))})
    reference = Defaults("tango").reference(other, answers)
    assert reference is not None and reference.tolist() == [1] * 4
    assert Defaults("tango").reference(default, answers) is None
    assert Defaults("divprune").reference(other, answers) is None
    assert (Defaults("divprune").name, Defaults("divprune").title) == ("divprune", "DivPrune")
