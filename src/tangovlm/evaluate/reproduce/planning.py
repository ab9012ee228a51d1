"""A plan: the runs that a table needs on a model, with their predicted cost; no model is loaded."""

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
from .rows import ResolvedRow, Row, resolve
from .tables import Table

_TINY_FRAMES = 4
"""Factor by which the embedded model's videos have fewer frames, as its clips last a few seconds."""
PLANNED, DONE, BEGUN, UNREACHABLE = "to run", "finished", "begun", "unreachable"
"""States of a row."""


@dataclass(frozen=True)
class Step:
    """A row of the plan and its predicted cost."""

    resolved: ResolvedRow
    cost: Cost

    @property
    def row(self) -> Row:
        """The row of the table."""
        return self.resolved.row


@dataclass(frozen=True)
class Plan:
    """The runs of `tangovlm reproduce`.

    Parameters
    ----------
    table: what is measured.
    shape: of the model.
    steps: the chosen rows, the unpruned model first.
    benchmarks: whose questions are asked.
    limit: number of questions per benchmark; None for all.
    gpus: number of processes that share a row.
    device: name of the GPU that the prediction assumes.
    peak: its peak operations per second.
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
        """The title of the table, with the model if it is not the paper's."""
        if self.shape.model == self.table.model:
            return self.table.title
        return f"{self.table.title}; here on {self.shape.model}, {self.table.frames} frames"

    @property
    def reachable(self) -> tuple[Step, ...]:
        """The rows that can be run."""
        return tuple(step for step in self.steps if step.resolved.unreachable is None)

    @property
    def totals(self) -> dict[str, Any]:
        """Predicted cost of all rows that can be run."""
        return totals([step.cost for step in self.reachable], self.gpus)

    @property
    def assumptions(self) -> str:
        """The assumptions of the prediction, in one sentence."""
        return (
            f"predicted for {self.device} ({self.peak / 1e12:.0f} TFLOPS at peak) from the rates in the authors' "
            "profile of LLaVA-OneVision-7B on an A800; most of the time is spent reading and decoding videos, 3.3 s "
            "per question as in that profile"
        )

    def spec(self, step: Step) -> dict[str, Any]:
        """Everything that the results of a row depend on, as JSON values."""
        return {
            "model": self.shape.model,
            "limit": self.limit,
            "benchmarks": [each.name for each in self.benchmarks],
            **step.resolved.settings,
        }

    def as_dict(self, paper: Paper, states: dict[str, str], commands: dict[str, list[str]]) -> dict[str, Any]:
        """The plan as JSON values.

        Parameters
        ----------
        states: state of each row by its key.
        commands: command line of each row by its key; rows may be missing.
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
            "unreachable": step.resolved.unreachable,
            "hyper_parameters": step.resolved.settings,
            "benchmarks": [each.name for each in self.benchmarks],
            "visual_tokens": before,
            "newlines": self.shape.newlines_before(row.frames),
            "kept_before_llm": kept_tokens(step.resolved, self.shape),
            "predicted": None if step.resolved.unreachable else step.cost.as_dict(),
            "published": {name: published.get(name) for name in figures},
            "command": commands.get(row.key),
        }


def make_plan(
    table: Table,
    model: str | None,
    benchmarks: tuple[Benchmark, ...],
    *,
    rows: Sequence[str] = (),
    limit: int | None = None,
    gpus: int = 1,
    device: str | None = None,
) -> Plan:
    """Plan the runs of a table.

    Parameters
    ----------
    model: None for the paper's. With the embedded model, whose clips are short, tables with one number of frames take a
        quarter of it.
    rows: regular expressions that are searched in the label, group and key of each row; empty for all rows. The
        unpruned model always runs, since all others are compared with it.
    limit: number of questions per benchmark; None for all.
    gpus: number of processes that share a row.
    device: name of the GPU; None or an unknown name is treated as an A800.

    Raises
    ------
    InputError: see `shape_of`; an invalid expression, or one that matches no row.
    """
    shape = shape_of(model or table.model)
    if shape.model == TINY and len({row.frames for row in table.rows}) == 1:
        table = table.shorter(_TINY_FRAMES)
    asked = questions(benchmarks, limit)
    known_peak = peak_of(device or "")
    peak = known_peak or A800
    chosen = [resolve(row, shape) for row in _chosen(table, rows)]
    steps = tuple(Step(each, predict(each, shape, asked, peak)) for each in chosen)
    name = device if device and known_peak else "an A800"
    return Plan(table, shape, steps, benchmarks, limit, gpus, name, peak)


def _chosen(table: Table, expressions: Sequence[str]) -> list[Row]:
    keys = {table.baseline.key} if expressions else {row.key for row in table.rows}
    for expression in expressions:
        try:
            pattern = re.compile(expression, re.IGNORECASE)
        except re.error as error:
            raise InputError(
                f"--rows {expression!r} is no regular expression ({error}): give a row's name or a part of it"
            ) from error
        # The full name of a row selects that row only, even if other names begin with it.
        exact = [row.key for row in table.rows if expression in (row.key, row.label)]
        matches = exact or [row.key for row in table.rows if any(map(pattern.search, (row.key, row.label, row.group)))]
        if not matches:
            raise InputError(
                f"--rows {expression!r} fits no row of {table.name}: it has {', '.join(r.key for r in table.rows)}"
            )
        keys.update(matches)
    return [row for row in table.rows if row.key in keys]


def check_devices(plan: Plan, bytes_of_gpus: Sequence[int], device: str) -> None:
    """Check that there are enough GPUs, each with the memory that a row is predicted to need.

    Parameters
    ----------
    bytes_of_gpus: memory of each GPU; nothing is checked if there is none.
    device: name of the GPUs.

    Raises
    ------
    InputError: too few GPUs, or too little memory.
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
    """The default folder of the results."""
    return Path("tangovlm-reproduce") / table.name


def markdown(plan: Plan, states: dict[str, str]) -> str:
    """The plan as a Markdown table."""
    head = ["row", "method", "kept", "before the LLM", "threshold", "frames", "tokens", "GPU h", "GB", "state"]
    lines = [_line(head), _line(["---", "---", *["---:"] * 7, "---"])]
    for step in plan.steps:
        about, row = step.resolved.settings, step.row
        method = row.method + (f" + {row.in_llm}" if row.in_llm else "")
        state = step.resolved.unreachable or states.get(row.key, PLANNED)
        cells = [
            row.key,
            method,
            f"{100 * row.retention:.4g} %",
            f"{100 * step.resolved.before:.2f} %",
            f"{about['segment_threshold']:g}" if about.get("segment_threshold") is not None else "",
            str(row.frames),
            str(kept_tokens(step.resolved, plan.shape)),
            "" if step.resolved.unreachable else f"{step.cost.hours:.1f}",
            "" if step.resolved.unreachable else f"{step.cost.memory_gb:.1f}",
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
