"""Paired bootstrap over clips: answers to questions about one clip are correlated, so clips are resampled."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS = 4000
MIN_CLIPS = 20
"""With fewer clips, a bootstrap interval is not reliable."""
_SEED = 0
_LEVELS = (2.5, 97.5)


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval, which is None for fewer than `MIN_CLIPS` clips."""

    value: float
    low: float | None
    high: float | None

    @property
    def clear(self) -> bool:
        """Whether there is an interval that excludes zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def interval_text(estimate: Estimate | None, scale: float = 1.0) -> str:
    """A difference and its interval as Markdown, multiplied by ``scale``; bold if zero is excluded, empty for None.

    >>> interval_text(Estimate(-0.051, -0.07, -0.02), 100)
    '**-5.1** [-7.0, -2.0]'
    """
    if estimate is None:
        return ""
    value = f"{scale * estimate.value:+.1f}"
    if estimate.low is None or estimate.high is None:
        return value
    value = f"**{value}**" if estimate.clear else value
    return f"{value} [{scale * estimate.low:+.1f}, {scale * estimate.high:+.1f}]"


def interval_json(estimate: Estimate | None) -> list[float | None] | None:
    """A figure and the bounds of its interval."""
    return None if estimate is None else [estimate.value, estimate.low, estimate.high]


class Bootstrap:
    """Resamples clips. All figures use the same samples, so that differences are paired.

    Parameters
    ----------
    clips: the clip of each question.
    """

    def __init__(self, clips: Sequence[Hashable]) -> None:
        indices = {clip: index for index, clip in enumerate(dict.fromkeys(clips))}
        self._clip = np.array([indices[clip] for clip in clips])
        self._count = len(indices)
        rng = np.random.default_rng(_SEED)
        times = rng.multinomial(self._count, np.full(self._count, 1 / self._count), size=DRAWS)
        # Whole numbers would be converted at each product.
        self._times = times.astype(np.float64)
        self._questions = self._times @ self._sums(np.ones(len(self._clip)))

    def mean(self, values: Sequence[float] | NDArray[np.float64]) -> Estimate:
        """Mean over questions.

        Parameters
        ----------
        values: one per question; for the difference of two runs, the differences of their values.
        """
        array = np.asarray(values, np.float64)
        if self._count < MIN_CLIPS:
            return Estimate(float(array.mean()), None, None)
        means = self._times @ self._sums(array) / self._questions
        low, high = np.percentile(means, _LEVELS)
        return Estimate(float(array.mean()), float(low), float(high))

    def _sums(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(self._clip, values, self._count).astype(np.float64)
