"""Comparison of rows: our figures, the paper's, and paired differences with confidence intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..statistics import Bootstrap, Estimate, interval_json
from .harnesses.answers import Answer, Results, scores, weights
from .paper import Paper
from .planning import Plan, Step
from .rows import Row


@dataclass(frozen=True)
class Line:
    """The figures of a row.

    Parameters
    ----------
    step: the row of the plan.
    results: None if the row was not run.
    ours: percent by benchmark, group and "average".
    published: the paper's figures, as far as they are known.
    share: "average" in percent of the unpruned model's in the same run.
    speedup: the unpruned model's time to the first token divided by this row's; None if unmeasured.
    against_baseline, against_tango: differences of the average in points; None for the row itself, if the other row
        was not run, or if the two rows answered different questions.
    """

    step: Step
    results: Results | None
    ours: Mapping[str, float | None]
    published: Mapping[str, float]
    share: float | None
    speedup: float | None
    against_baseline: Estimate | None
    against_tango: Estimate | None

    def as_dict(self) -> dict[str, Any]:
        """The line as JSON values."""
        published = {name: self.published.get(name) for name in [*self.ours, "percent_of_baseline", "speedup"]}
        return {
            "key": self.step.row.key,
            "label": self.step.row.label,
            "group": self.step.row.group,
            "hyper_parameters": self.step.resolved.settings,
            "unreachable": self.step.resolved.unreachable,
            "questions": None if self.results is None else len(self.results.answers),
            "ours": dict(self.ours),
            "published": published,
            "difference": {name: self.difference(name) for name in self.ours},
            "percent_of_baseline": self.share,
            "speedup": self.speedup,
            "against_baseline": interval_json(self.against_baseline),
            "against_tango": interval_json(self.against_tango),
            "reported_by_harness": None if self.results is None else dict(self.results.reported),
            "measured": None if self.results is None else dict(self.results.measured),
            "harness": None if self.results is None else self.results.harness,
        }

    def difference(self, name: str) -> float | None:
        """Ours minus the paper's; None if one of them is unknown."""
        own, published = self.ours.get(name), self.published.get(name)
        return None if own is None or published is None else own - published


def compare(plan: Plan, found: Mapping[str, Results], paper: Paper) -> list[Line]:
    """One line per row of the plan, in its order.

    Parameters
    ----------
    found: results by the key of their row, without rows that were not run.
    """
    baseline = found.get(plan.table.baseline.key)
    unpruned = None if baseline is None else scores(baseline, plan.benchmarks)["average"]
    unpruned_ms = None if baseline is None else baseline.measured.get("ttft_ms")
    pairs = _PairedDifferences(plan)
    lines = []
    for step in plan.steps:
        results = found.get(step.row.key)
        ours = scores(results, plan.benchmarks) if results is not None else {}
        average = ours.get("average")
        own_ms = None if results is None else results.measured.get("ttft_ms")
        tango = plan.table.tango(step.row)
        lines.append(
            Line(
                step=step,
                results=results,
                ours=ours,
                published=paper.of(plan.table.name, step.row),
                share=100 * average / unpruned if average is not None and unpruned else None,
                speedup=unpruned_ms / own_ms if unpruned_ms and own_ms else None,
                against_baseline=pairs.difference(results, None if step.row is plan.table.baseline else baseline),
                against_tango=pairs.difference(results, _result(found, tango)),
            )
        )
    return lines


def notes(lines: Sequence[Line]) -> list[str]:
    """Notes for the reader: scores of a harness that differ from ours."""
    found = []
    for line in lines:
        for name, value in line.results.reported.items() if line.results is not None else ():
            own = line.ours.get(name)
            if own is not None and abs(own - value) > 0.06:
                found.append(
                    f"{line.step.row.key}: the harness reports {value:.1f} for {name}, but its individual answers "
                    f"give {own:.1f}"
                )
    return found


class _PairedDifferences:
    """Differences between rows; rows with the same questions share the bootstrap samples."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._bootstraps: dict[tuple[tuple[str, str], ...], Bootstrap] = {}

    def difference(self, one: Results | None, other: Results | None) -> Estimate | None:
        """Mean over benchmarks of the difference in points; None unless both rows have the same questions."""
        if one is None or other is None:
            return None
        known = {(each.benchmark, each.question): each for each in other.answers}
        both = [(each, known[each.benchmark, each.question]) for each in one.answers if _key(each) in known]
        if not both or len(both) != len(one.answers) or len(both) != len(other.answers):
            return None
        own = [each for each, _ in both]
        pairs = zip(weights(own, self._plan.benchmarks), both, strict=True)
        values = [100 * weight * (a.right - b.right) for weight, (a, b) in pairs]
        return self._bootstrap(own).mean(values)

    def _bootstrap(self, answers: Sequence[Answer]) -> Bootstrap:
        clips = tuple((each.benchmark, each.clip) for each in answers)
        if clips not in self._bootstraps:
            self._bootstraps[clips] = Bootstrap(clips)
        return self._bootstraps[clips]


def _key(answer: Answer) -> tuple[str, str]:
    return answer.benchmark, answer.question


def _result(found: Mapping[str, Results], row: Row | None) -> Results | None:
    return None if row is None else found.get(row.key)
