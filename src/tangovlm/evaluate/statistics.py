"""Paired bootstrap: questions about one clip stand or fall together, so clips are drawn, not questions."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS = 4000
MIN_CLIPS = 20
"""With fewer, resampled clips say too little about others for an interval."""
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
        """Whether there is an interval that leaves out zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def interval_text(estimate: Estimate | None, scale: float = 1.0) -> str:
    """A difference and its interval for Markdown, times ``scale``; bold where zero is left out, empty for None.

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
    """A figure with the bounds of its interval."""
    return None if estimate is None else [estimate.value, estimate.low, estimate.high]


class Bootstrap:
    """Resamples clips; the same draws for every figure, so that differences are paired.

    Parameters
    ----------
    clips: which clip each question is about.
    """

    def __init__(self, clips: Sequence[Hashable]) -> None:
        places = {clip: place for place, clip in enumerate(dict.fromkeys(clips))}
        self._clip = np.array([places[clip] for clip in clips])
        self._count = len(places)
        rng = np.random.default_rng(_SEED)
        self._times = rng.multinomial(self._count, np.full(self._count, 1 / self._count), size=DRAWS)

    def mean(self, values: Sequence[float]) -> Estimate:
        """Mean over questions, of one value a question; for a difference of two runs, the difference of theirs."""
        array = np.asarray(values, np.float64)
        if self._count < MIN_CLIPS:
            return Estimate(float(array.mean()), None, None)
        drawn = self._times @ self._sums(array) / (self._times @ self._sums(np.ones_like(array)))
        low, high = np.percentile(drawn, _LEVELS)
        return Estimate(float(array.mean()), float(low), float(high))

    def _sums(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(self._clip, values, self._count).astype(np.float64)
