"""What the rows of a table are compared with: a reference answer per question, so that differences are paired.

Shape letters: Q questions.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tangovlm import registry

from ..runs import Run, build_run

Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Answers:
    """The answers of all runs of a table.

    Parameters
    ----------
    runs: in the order of the table.
    lengths: (Q,), moments of the clip that a question is about.
    exact: by `Run.key`, (Q,), 1 for a correct answer and 0 for a wrong one.
    tokens: by `Run.key`, (Q,), visual tokens that entered the language model.
    """

    runs: tuple[Run, ...]
    lengths: NDArray[np.int64]
    exact: Mapping[str, Values]
    tokens: Mapping[str, Values]


class Comparison(ABC):
    """A column of differences."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Of the entry ``against_NAME`` in JSON."""

    @property
    @abstractmethod
    def title(self) -> str:
        """Of the column *against TITLE*."""

    @abstractmethod
    def reference(self, run: Run, answers: Answers) -> Values | None:
        """Exact match of the reference for each question (Q,).

        Returns
        -------
        NaN for a question without a reference; None if the run has no reference at all, or is its own.
        """


@dataclass(frozen=True)
class AllTokens(Comparison):
    """The model without pruning.

    Parameters
    ----------
    frames: frames taken from a clip; None for one per moment.
    """

    frames: int | None = None

    @property
    def name(self) -> str:
        """See `Comparison`."""
        return "unpruned" if self.frames is None else f"unpruned_{self.frames}_frames"

    @property
    def title(self) -> str:
        """See `Comparison`."""
        return "unpruned" if self.frames is None else f"all tokens of {self.frames} frames"

    def reference(self, run: Run, answers: Answers) -> Values | None:
        """See `Comparison`."""
        found = next((each for each in answers.runs if _is_stock(each, self.frames)), None)
        return None if found is None or found.key == run.key else answers.exact[found.key]


def _is_stock(run: Run, frames: int | None) -> bool:
    return run.unpruned and run.frames == frames and run.encode is None


@dataclass(frozen=True)
class AllEncoded(Comparison):
    """The same method, with all frames encoded."""

    @property
    def name(self) -> str:
        """See `Comparison`."""
        return "all_encoded"

    @property
    def title(self) -> str:
        """See `Comparison`."""
        return "all frames encoded"

    def reference(self, run: Run, answers: Answers) -> Values | None:
        """See `Comparison`."""
        key = replace(run, encode=None).key
        found = None if run.encode is None else next((each for each in answers.runs if each.key == key), None)
        return None if found is None else answers.exact[found.key]


@dataclass(frozen=True)
class Defaults(Comparison):
    """A method with its default settings, in the same group of the table and with the same number of frames."""

    method: str

    @property
    def name(self) -> str:
        """See `Comparison`."""
        return self.method

    @property
    def title(self) -> str:
        """See `Comparison`."""
        return registry.methods()[self.method].__name__

    def reference(self, run: Run, answers: Answers) -> Values | None:
        """See `Comparison`."""
        found = self.find(run, answers.runs)
        return None if found is None or found.key == run.key else answers.exact[found.key]

    def find(self, run: Run, runs: Sequence[Run]) -> Run | None:
        """The reference among the runs of a table; None if there is none."""
        group = (each for each in runs if (each.group, each.frames) == (run.group, run.frames))
        return next((each for each in group if self._matches(each)), None)

    def _matches(self, run: Run) -> bool:
        if run.unpruned or run.pruner.name != self.method:
            return False
        # In a table of frames the threshold is set for the group.
        threshold = None if run.frames is None else getattr(run.pruner, "segment_threshold", None)
        fixed: dict[str, Any] = {} if threshold is None else {"segment_threshold": threshold}
        return run.key == build_run(self.method, run.pruner.retention, frames=run.frames, **fixed).key


@dataclass(frozen=True)
class FixedCounts(Comparison):
    """The same method with a fixed retention at equal mean tokens, for a run whose content decides the counts.

    Such a retention is seldom among the runs, so the reference is interpolated linearly between the two whose mean
    tokens are next to those of the run. There is no reference outside the range of the fixed retentions.

    Parameters
    ----------
    per_length: equal the mean tokens of each length of clips on its own, instead of the mean over all of them. What
        remains is the gain from distributing tokens over clips of one length.
    """

    per_length: bool = False

    @property
    def name(self) -> str:
        """See `Comparison`."""
        return "fixed_per_length" if self.per_length else "fixed"

    @property
    def title(self) -> str:
        """See `Comparison`."""
        return "fixed counts per length" if self.per_length else "fixed counts"

    def reference(self, run: Run, answers: Answers) -> Values | None:
        """See `Comparison`."""
        fixed = [each.key for each in answers.runs if _is_fixed(each, run)] if run.adaptive else []
        if not fixed:
            return None
        exact, tokens = (np.stack([by_run[key] for key in fixed]) for by_run in (answers.exact, answers.tokens))
        parts = answers.lengths if self.per_length else np.zeros_like(answers.lengths)
        values = np.full(len(parts), np.nan)
        for part in np.unique(parts):
            chosen = parts == part
            places = tokens[:, chosen].mean(1).tolist()
            weights = interpolate(float(answers.tokens[run.key][chosen].mean()), places)
            if weights is not None:
                values[chosen] = weights @ exact[:, chosen]
        return values


def interpolate(target: float, places: Sequence[float]) -> Values | None:
    """Weights that interpolate linearly at `target` between the two places around it.

    Returns
    -------
    A weight per place; None if the target is outside their range.

    >>> interpolate(3.0, [8.0, 2.0, 4.0])
    array([0. , 0.5, 0.5])
    """
    weights = np.zeros(len(places))
    order = sorted(range(len(places)), key=places.__getitem__)
    for place in order:
        if places[place] == target:
            weights[place] = 1.0
            return weights
    for low, high in pairwise(order):
        if places[low] < target < places[high]:
            weights[high] = (target - places[low]) / (places[high] - places[low])
            weights[low] = 1.0 - weights[high]
            return weights
    return None


def _is_fixed(candidate: Run, run: Run) -> bool:
    """Whether a run is of the same method as an adaptive one, with a fixed number of tokens."""
    return (
        not (candidate.unpruned or candidate.adaptive)
        and candidate.pruner.name == run.pruner.name
        and (candidate.saliency, candidate.positions, candidate.frames) == (run.saliency, run.positions, run.frames)
    )
