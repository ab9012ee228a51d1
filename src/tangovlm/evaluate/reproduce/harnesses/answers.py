"""The answers of a row as either harness judged them, question by question, and the scores that follow."""

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
    """One question of a benchmark as its harness judged the answer.

    Parameters
    ----------
    benchmark: its name. question: an id that is the same in every row. clip: which video it is about.
    category, group: of the question; the group is one of `Benchmark.groups` or empty.
    right: whether the harness took the answer for right.
    """

    benchmark: str
    question: str
    clip: str
    category: str
    group: str
    right: bool


@dataclass(frozen=True)
class Results:
    """What became of a row.

    Parameters
    ----------
    answers: of all its benchmarks.
    reported: the harness's own scores in percent, by the name of the benchmark.
    measured: times, tokens and memory, see `times.of_records`; empty where none were taken.
    harness: name and version.
    """

    answers: tuple[Answer, ...]
    reported: Mapping[str, float]
    harness: str
    measured: Mapping[str, Any] = field(default_factory=dict)

    def of(self, name: str) -> list[Answer]:
        """Those of a benchmark."""
        return [each for each in self.answers if each.benchmark == name]


def weights(answers: Sequence[Answer], benchmarks: Sequence[Benchmark]) -> list[float]:
    """What each answer weighs in the mean over benchmarks, which is then the mean of weight times rightness.

    A benchmark counts as much as any other; in one that is scored by category, so does each of its categories.
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
    """Percent of right answers; of one benchmark, by its rule. None without answers."""
    if not answers:
        return None
    right: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for each in answers:
        right[_bucket(each)].append(each.right)
    return 100 * sum(sum(part) / len(part) for part in right.values()) / len(right)


def scores(results: Results, benchmarks: Iterable[Benchmark]) -> dict[str, float | None]:
    """Percent by benchmark, by group of a benchmark, and the "average" over benchmarks."""
    found: dict[str, float | None] = {}
    for benchmark in benchmarks:
        answers = results.of(benchmark.name)
        found[benchmark.name] = score(answers)
        for group in benchmark.groups:
            found[f"{benchmark.name}/{group}"] = score([each for each in answers if each.group == group])
    whole = [value for name, value in found.items() if "/" not in name and value is not None]
    found["average"] = sum(whole) / len(whole) if whole else None
    return found


def save(path: Path, results: Results) -> None:
    """Write them as JSON."""
    about = {
        "harness": results.harness,
        "reported": dict(results.reported),
        "measured": dict(results.measured),
        "answers": [list(asdict(each).values()) for each in results.answers],
    }
    write_whole(path, json.dumps(about).encode())


def load(path: Path) -> Results:
    """Read what `save` wrote.

    Raises
    ------
    InputError: the file is damaged.
    """
    try:
        about: Any = json.loads(path.read_text(encoding="utf-8"))
        answers = tuple(Answer(*each) for each in about["answers"])
        return Results(answers, about["reported"], about["harness"], about["measured"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged: remove it, and the row is collected again") from error


def _bucket(answer: Answer) -> tuple[str, str]:
    return answer.benchmark, answer.category if BENCHMARKS[answer.benchmark].by_category else ""
