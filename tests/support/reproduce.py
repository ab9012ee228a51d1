"""Plans of all four benchmarks, jobs of their rows, and invented results."""

from pathlib import Path

import numpy as np

from tangovlm.evaluate.reproduce import benchmarks, planning, tables
from tangovlm.evaluate.reproduce.harnesses.answers import Answer, Results
from tangovlm.evaluate.reproduce.harnesses.base import RowJob

FOUR = benchmarks.chosen(())
CLIPS = 30


def plan(name: str, model: str | None = None, **options: object) -> planning.Plan:
    return planning.make_plan(tables.table(name), model, FOUR, **options)  # type: ignore[arg-type]


def settings(made: planning.Plan) -> dict[str, dict[str, object]]:
    return {step.row.key: step.resolved.settings for step in made.steps}


def row_job(folder: Path, key: str, model: str | None = None, **options: object) -> RowJob:
    """The job of the row with a key."""
    data = options.pop("data", None)
    name = str(options.pop("table", "table3"))
    made = plan(name, model, rows=[key], **options)
    assert isinstance(data, Path | None)
    return RowJob(made, made.steps[-1], folder, data)


def results(seed: int, share: float, clips: int = CLIPS) -> Results:
    """Random answers of a row, of which this share is correct; all rows have the same questions."""
    rng = np.random.default_rng(seed)
    found = []
    for benchmark in FOUR:
        for clip in range(clips):
            for question in range(2):
                group = benchmark.groups[clip % 3] if benchmark.groups else ""
                category = "order" if clip % 4 else "count"
                right = bool(rng.random() < share)
                found.append(Answer(benchmark.name, f"{clip}-{question}", str(clip), category, group, right))
    return Results(tuple(found), {}, "a harness 1")
