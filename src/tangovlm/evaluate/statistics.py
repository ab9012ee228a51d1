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
