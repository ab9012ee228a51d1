"""The bootstrap against a plain loop and against the formula for clusters."""

import math
import random

import numpy as np
import pytest

from tangovlm.evaluate.statistics import MIN_CLIPS, Bootstrap

CLIPS = [clip for clip, size in enumerate([1, 5, 3, 8, 2, 7, 4, 6, 3, 9] * 6) for _ in range(size)]


def correlated(seed: int, chance: float) -> list[int]:
    """Right and wrong answers that lean together within a clip."""
    rng = np.random.default_rng(seed)
    lean = rng.normal(0, 0.3, max(CLIPS) + 1)
    return [int(rng.random() < chance + lean[clip]) for clip in CLIPS]


def plain_bootstrap(values: list[float], draws: int = 2000) -> tuple[float, float]:
    """Draw clips one by one, pool their questions, take the mean."""
    generator = random.Random(5)
    by_clip: dict[int, list[float]] = {}
    for clip, value in zip(CLIPS, values, strict=True):
        by_clip.setdefault(clip, []).append(value)
    names, means = list(by_clip), []
    for _ in range(draws):
        pool = [value for clip in generator.choices(names, k=len(names)) for value in by_clip[clip]]
        means.append(sum(pool) / len(pool))
    means.sort()
    return means[round(0.025 * draws)], means[round(0.975 * draws) - 1]


@pytest.mark.parametrize("seed", [0, 1])
def test_interval_against_a_plain_loop(seed: int) -> None:
    one, other = correlated(seed, 0.7), correlated(seed + 10, 0.6)
    values = [a - b for a, b in zip(one, other, strict=True)]
    estimate = Bootstrap(CLIPS).mean(values)
    low, high = plain_bootstrap(values)
    assert estimate.low is not None
    assert estimate.high is not None
    assert estimate.value == pytest.approx(sum(values) / len(values))
    assert estimate.low == pytest.approx(low, abs=0.012)
    assert estimate.high == pytest.approx(high, abs=0.012)


def test_interval_against_the_cluster_formula() -> None:
    values = np.array(correlated(3, 0.6), float)
    residuals = np.bincount(CLIPS, values - values.mean())
    error = math.sqrt((residuals**2).sum()) / len(values)
    naive = math.sqrt(values.var() / len(values))
    estimate = Bootstrap(CLIPS).mean(list(values))
    assert estimate.low is not None
    assert estimate.high is not None
    assert (estimate.high - estimate.low) / 2 == pytest.approx(1.96 * error, rel=0.1)
    assert error > 1.2 * naive


def test_differences_are_paired() -> None:
    bootstrap, values = Bootstrap(CLIPS), correlated(2, 0.5)
    assert bootstrap.mean([0.0] * len(values)).high == 0
    constant = bootstrap.mean([1.0] * len(values))
    assert (constant.low, constant.value, constant.high) == pytest.approx((1, 1, 1))
    assert constant.clear
    assert not bootstrap.mean([0.0] * len(values)).clear
    assert bootstrap.mean(values) == Bootstrap(CLIPS).mean(values)


def test_few_clips_have_no_interval() -> None:
    few = Bootstrap(range(MIN_CLIPS - 1)).mean([1] * (MIN_CLIPS - 1))
    assert (few.low, few.value, few.high, few.clear) == (None, 1, None, False)
    enough = Bootstrap(range(MIN_CLIPS)).mean([1] * MIN_CLIPS)
    assert (enough.low, enough.high, enough.clear) == (1, 1, True)
