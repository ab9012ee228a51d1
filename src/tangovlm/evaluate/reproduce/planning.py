"""From a table and a model to the runs that it takes, with what they will cost; nothing is loaded for it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tangovlm.errors import InputError

from .benchmarks import Benchmark
from .cost import A800, Cost, kept_tokens, peak_of, predict, questions, totals
from .models import TINY, Shape, shape_of
from .paper import Paper
from .rows import Planned, Row, resolve
from .tables import Table

_TINY_FRAMES = 4
"""Times fewer frames of clips that last a few seconds."""
PLANNED, DONE, HALF, UNREACHABLE = "to run", "finished", "begun", "unreachable"
"""States of a row."""


@dataclass(frozen=True)
class Step:
    """A row of the plan: what is run, and what it will take."""

    planned: Planned
    cost: Cost

    @property
    def row(self) -> Row:
        """As the table has it."""
        return self.planned.row


@dataclass(frozen=True)
class Plan:
    """What `tangovlm reproduce` is about to do.

    Parameters
    ----------
    table, shape: what is measured, and of which model.
    steps: the rows that were chosen, the unpruned model first.
    benchmarks, limit: what is asked, and how many questions of each at most.
    gpus: how many processes share a row. device: what the prediction assumes.
    """

    table: Table
    shape: Shape
    steps: tuple[Step, ...]
    benchmarks: tuple[Benchmark, ...]
    limit: int | None
    gpus: int
    device: str
    peak: float

    @property
    def title(self) -> str:
        """Of the table, with the model where it is not the paper's."""
        if self.shape.model == self.table.model:
            return self.table.title
        return f"{self.table.title}; here on {self.shape.model}, {self.table.frames} frames"

    @property
    def reachable(self) -> tuple[Step, ...]:
        """What can be run."""
        return tuple(step for step in self.steps if step.planned.unreachable is None)

    @property
    def totals(self) -> dict[str, Any]:
        """Of all rows that can be run; see `Cost`."""
        return totals([step.cost for step in self.reachable], self.gpus)

    @property
    def assumptions(self) -> str:
        """What the prediction rests on, in a sentence."""
        return (
            f"predicted for {self.device} ({self.peak / 1e12:.0f} TFLOPS at peak) at the rates that the authors' "
            "profile of LLaVA-OneVision-7B on an A800 shows; most of the hours are reading and decoding videos, at 3.3 "
            "s a question as in that profile"
        )

    def spec(self, step: Step) -> dict[str, Any]:
        """Everything that the results of a row depend on, as JSON has it."""
        return {
            "model": self.shape.model,
            "limit": self.limit,
            "benchmarks": [each.name for each in self.benchmarks],
            **step.planned.settings,
        }

    def as_dict(self, paper: Paper, states: dict[str, str], commands: dict[str, list[str]]) -> dict[str, Any]:
        """For JSON.

        Parameters
        ----------
        states, commands: of the rows by their keys; a row without a command has none.
        """
        return {
            "table": self.table.name,
            "title": self.title,
            "model": self.shape.model,
            "paper_model": self.table.model,
            "benchmarks": [
                {"name": each.name, "title": each.title, "questions": questions([each], self.limit)}
                for each in self.benchmarks
            ],
            "limit": self.limit,
            "gpus": self.gpus,
            "predicted": self.totals | {"assumptions": self.assumptions},
            "rows": [self._row(step, paper, states, commands) for step in self.steps],
        }

    def _row(self, step: Step, paper: Paper, states: dict[str, str], commands: dict[str, list[str]]) -> dict[str, Any]:
        row, before = step.row, self.shape.tokens_before(step.row.frames)
        published = paper.of(self.table.name, row)
        names = [f"{each.name}/{group}" for each in self.benchmarks for group in each.groups]
        figures = [*(each.name for each in self.benchmarks), *names, "average", "percent_of_baseline"]
        return {
            "key": row.key,
            "label": row.label,
            "group": row.group,
            "state": states.get(row.key, PLANNED),
            "unreachable": step.planned.unreachable,
            "hyper_parameters": step.planned.settings,
            "benchmarks": [each.name for each in self.benchmarks],
            "visual_tokens": before,
            "newlines": self.shape.newlines_before(row.frames),
            "kept_before_llm": kept_tokens(step.planned, self.shape),
            "predicted": None if step.planned.unreachable else step.cost.as_dict(),
            "published": {name: published.get(name) for name in figures},
            "command": commands.get(row.key),
        }


def make(
    table: Table,
    model: str | None,
    benchmarks: tuple[Benchmark, ...],
    *,
    rows: Sequence[str] = (),
    limit: int | None = None,
    gpus: int = 1,
    device: str | None = None,
) -> Plan:
    """A plan.

    Parameters
    ----------
    model: None for the paper's; the embedded model sees a quarter of the frames, as its clips are short, where all rows
        have equally many.
    rows: regular expressions, one of which is found in the label, the group or the key of a row; none means all. The
        unpruned model always runs, as all others are compared with it.
    device: name of the GPU; one that is not known, or None, is taken for an A800.

    Raises
    ------
    InputError: see `shape_of`; an expression that is none or fits no row.
    """
    shape = shape_of(model or table.model)
    if shape.model == TINY and len({row.frames for row in table.rows}) == 1:
        table = table.shorter(_TINY_FRAMES)
    asked = questions(benchmarks, limit)
    found = peak_of(device or "")
    peak = found or A800
    chosen = [resolve(row, shape) for row in _chosen(table, rows)]
    steps = tuple(Step(each, predict(each, shape, asked, peak)) for each in chosen)
    name = device if device and found else "an A800"
    return Plan(table, shape, steps, benchmarks, limit, gpus, name, peak)


def _chosen(table: Table, wanted: Sequence[str]) -> list[Row]:
    found = {table.baseline.key} if wanted else {row.key for row in table.rows}
    for each in wanted:
        try:
            pattern = re.compile(each, re.IGNORECASE)
        except re.error as error:
            raise InputError(
                f"--rows {each!r} is no regular expression ({error}): give a row's name or a part"
            ) from error
        # A row's own name means that row alone, though others may begin with it.
        own = [row.key for row in table.rows if each in (row.key, row.label)]
        fits = own or [row.key for row in table.rows if any(map(pattern.search, (row.key, row.label, row.group)))]
        if not fits:
            raise InputError(
                f"--rows {each!r} fits no row of {table.name}: it has {', '.join(r.key for r in table.rows)}"
            )
        found.update(fits)
    return [row for row in table.rows if row.key in found]


def check_devices(plan: Plan, bytes_of_gpus: Sequence[int], device: str) -> None:
    """See that there are as many GPUs as asked for, each with the memory that a row is predicted to take.

    Parameters
    ----------
    bytes_of_gpus: none without a GPU, where nothing is checked. device: what they are called.

    Raises
    ------
    InputError: too few, or too small.
    """
    if not bytes_of_gpus:
        return
    if plan.gpus > len(bytes_of_gpus):
        raise InputError(f"--gpus is {plan.gpus}, and PyTorch sees {len(bytes_of_gpus)} here: give at most as many")
    step = max(plan.reachable, key=lambda each: each.cost.memory_gb)
    least = min(bytes_of_gpus[: plan.gpus])
    if step.cost.memory_gb * 10**9 > least:
        raise InputError(
            f"the row {step.row.key} of {plan.table.name} is predicted to take {step.cost.memory_gb:.1f} GB on each "
            f"GPU and {device} has {least / 10**9:.1f} GB: take a GPU with more, a smaller --model, or choose rows "
            "with --rows"
        )


def default_output(table: Table) -> Path:
    """Where results go by default."""
    return Path("tangovlm-reproduce") / table.name


def markdown(plan: Plan, states: dict[str, str]) -> str:
    """The plan as a table for the reader."""
    head = ["row", "method", "kept", "before the LLM", "threshold", "frames", "tokens", "GPU h", "GB", "state"]
    lines = [_line(head), _line(["---", "---", *["---:"] * 7, "---"])]
    for step in plan.steps:
        about, row = step.planned.settings, step.row
        method = row.method + (f" + {row.in_llm}" if row.in_llm else "")
        state = step.planned.unreachable or states.get(row.key, PLANNED)
        cells = [
            row.key,
            method,
            f"{100 * row.retention:.4g} %",
            f"{100 * step.planned.before:.2f} %",
            f"{about['segment_threshold']:g}" if about.get("segment_threshold") is not None else "",
            str(row.frames),
            str(kept_tokens(step.planned, plan.shape)),
            "" if step.planned.unreachable else f"{step.cost.hours:.1f}",
            "" if step.planned.unreachable else f"{step.cost.memory_gb:.1f}",
            state,
        ]
        lines.append(_line(cells))
    total = plan.totals
    asked = ", ".join(f"{each.title} {questions([each], plan.limit)}" for each in plan.benchmarks)
    return "\n".join(
        [
            f"### {plan.title}",
            "",
            f"{plan.shape.model}; questions: {asked}.",
            "",
            *lines,
            "",
            f"In all {total['gpu_hours']} GPU hours ({total['gpu_hours_busy']} of them computing), "
            f"{total['wall_hours']} hours on {plan.gpus} GPU(s), {total['memory_gb']} GB at most: {plan.assumptions}.",
        ]
    )


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
