"""The answers of a row as judged by a harness, question by question, and the scores computed from them."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tangovlm.errors import InputError
from tangovlm.report import write_whole

from ..benchmarks import BENCHMARKS, Benchmark


@dataclass(frozen=True)
class Answer:
    """A judged answer to one question.

    Parameters
    ----------
    benchmark: name of the benchmark.
    question: identifier of the question, which is the same in every row.
    clip: identifier of its video.
    category: of the question.
    group: one of `Benchmark.groups`, or empty.
    right: whether the harness judged the answer as correct.
    """

    benchmark: str
    question: str
    clip: str
    category: str
    group: str
    right: bool


@dataclass(frozen=True)
class Results:
    """The results of a row.

    Parameters
    ----------
    answers: of all benchmarks.
    reported: the harness's own scores in percent, by the name of the benchmark.
    harness: name and version.
    measured: times, tokens and memory, see `times.means_of_records`; empty if unmeasured.
    """

    answers: tuple[Answer, ...]
    reported: Mapping[str, float]
    harness: str
    measured: Mapping[str, Any] = field(default_factory=dict)

    def of(self, name: str) -> list[Answer]:
        """The answers of a benchmark."""
        return [each for each in self.answers if each.benchmark == name]


def weights(answers: Sequence[Answer], benchmarks: Sequence[Benchmark]) -> list[float]:
    """The weight of each answer, such that the mean of weight times correctness is the mean score over benchmarks.

    All benchmarks count equally, and so do all categories of a benchmark that is scored by category.
    """
    groups = [_bucket(each) for each in answers]
    sizes: dict[tuple[str, str], int] = defaultdict(int)
    for group in groups:
        sizes[group] += 1
    parts: dict[str, int] = defaultdict(int)
    for name, _ in sizes:
        parts[name] += 1
    used = len([each for each in benchmarks if each.name in parts])
    return [len(answers) / (used * parts[name] * sizes[name, part]) for name, part in groups]


def score(answers: Sequence[Answer]) -> float | None:
    """The score of one benchmark in percent, by its own rule; None without answers."""
    if not answers:
        return None
    right: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for each in answers:
        right[_bucket(each)].append(each.right)
    return 100 * sum(sum(part) / len(part) for part in right.values()) / len(right)


def scores(results: Results, benchmarks: Iterable[Benchmark]) -> dict[str, float | None]:
    """Scores in percent by benchmark, by group of a benchmark, and the "average" over benchmarks."""
    found: dict[str, float | None] = {}
    for benchmark in benchmarks:
        answers = results.of(benchmark.name)
        found[benchmark.name] = score(answers)
        for group in benchmark.groups:
            found[f"{benchmark.name}/{group}"] = score([each for each in answers if each.group == group])
    benchmark_scores = [value for name, value in found.items() if "/" not in name and value is not None]
    found["average"] = sum(benchmark_scores) / len(benchmark_scores) if benchmark_scores else None
    return found


def save(path: Path, results: Results) -> None:
    """Write results as JSON."""
    about = {
        "harness": results.harness,
        "reported": dict(results.reported),
        "measured": dict(results.measured),
        "answers": [list(asdict(each).values()) for each in results.answers],
    }
    write_whole(path, json.dumps(about).encode())


def load(path: Path) -> Results:
    """Read results that `save` wrote.

    Raises
    ------
    InputError: the file is damaged.
    """
    try:
        about: Any = json.loads(path.read_text(encoding="utf-8"))
        answers = tuple(Answer(*each) for each in about["answers"])
        return Results(answers, about["reported"], about["harness"], about["measured"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged: remove it to collect the row again") from error


def _bucket(answer: Answer) -> tuple[str, str]:
    return answer.benchmark, answer.category if BENCHMARKS[answer.benchmark].by_category else ""
