"""`tangovlm reproduce`: the tables of the paper, measured with lmms-eval or VLMEvalKit."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import tangovlm
from tangovlm.errors import InputError
from tangovlm.report import write_whole

from ..checks import check_at_least_one
from ..options import AsJson
from ..output import log, show_json, show_markdown

if TYPE_CHECKING:
    from tangovlm.evaluate.reproduce.harnesses.answers import Results
    from tangovlm.evaluate.reproduce.harnesses.base import Harness
    from tangovlm.evaluate.reproduce.paper import Paper
    from tangovlm.evaluate.reproduce.planning import Plan
    from tangovlm.evaluate.reproduce.store import Store


MINIATURE_QUESTIONS = 20
"""Default number of questions of each data set that is written for the embedded model."""


def reproduce(
    table: Annotated[
        str, typer.Argument(help="Table to reproduce: table1 to table4, fig6 to fig9, qwen or beyond.", metavar="TABLE")
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help="Directory or Hugging Face id of the model, or tangovlm-tiny.",
            show_default="the paper's model for the table",
        ),
    ] = None,
    harness: Annotated[
        str | None,
        typer.Option(
            help="vlmevalkit, which the paper uses, or lmms-eval.",
            show_default="vlmevalkit; for fig9, lmms-eval",
        ),
    ] = None,
    gpus: Annotated[int, typer.Option(help="Number of GPUs that share each row.")] = 1,
    limit: Annotated[
        int | None, typer.Option(help="Number of questions of each benchmark.", show_default="all")
    ] = None,
    rows: Annotated[
        list[str] | None,
        typer.Option(help="Row to run, by name or regular expression. Repeatable.", show_default="all"),
    ] = None,
    benchmarks: Annotated[
        str | None,
        typer.Option(help="Benchmarks, separated by commas.", show_default="mvbench,longvideobench,mlvu,videomme"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Directory of results. Finished rows in it are reused.", show_default="tangovlm-reproduce/TABLE"
        ),
    ] = None,
    paper: Annotated[
        Path | None,
        typer.Option(help="JSON file of the paper's numbers; see docs/reproducing.md.", show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and its cost, and run nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Start without confirmation.")] = False,
    as_json: AsJson = False,
) -> None:
    """Reproduce a table of the paper: plan, run, collect, compare."""
    check_at_least_one("--gpus", gpus)
    check_at_least_one("--limit", limit)
    from tangovlm.evaluate.reproduce import benchmarks as known_benchmarks
    from tangovlm.evaluate.reproduce import planning, store, tables
    from tangovlm.evaluate.reproduce.harnesses.choice import choose
    from tangovlm.evaluate.reproduce.models import TINY
    from tangovlm.evaluate.reproduce.paper import Paper

    if model == TINY and limit is None:
        limit = MINIATURE_QUESTIONS
    chosen = tables.table(table)
    runner, note = choose(harness, timed=chosen.profile)
    names = [each.strip() for each in benchmarks.split(",")] if benchmarks else []
    plan = planning.make_plan(
        chosen, model, known_benchmarks.chosen(names), rows=rows or (), limit=limit, gpus=gpus, device=_device_name()
    )
    folder = output or planning.default_output(chosen)
    job = _Job(plan, runner, store.Store(folder, plan, runner.name), Paper(paper, known=plan.shape.model != TINY), note)
    if dry_run:
        job.show_plan(as_json)
        return
    job.run(yes)
    job.show(as_json)


@dataclass(frozen=True)
class _Job:
    """A plan, and where and with what it runs."""

    plan: Plan
    harness: Harness
    store: Store
    paper: Paper
    note: str | None

    def show_plan(self, as_json: bool) -> None:
        """Show what would run."""
        from tangovlm.evaluate.reproduce import planning
        from tangovlm.evaluate.reproduce.harnesses.base import RowJob, version

        states = self.store.states()
        self._log_note()
        if not as_json:
            show_markdown(planning.markdown(self.plan, states))
            return
        commands, data = {}, self.store.data if self._tiny else None
        for step in self.plan.reachable:
            job = RowJob(self.plan, step, self.store.harness_folder(step), data)
            commands[step.row.key] = self.harness.command(job).words
        about = {"name": self.harness.name, "version": version(self.harness)}
        show_json(
            {"dry_run": True, "harness": about, "output": str(self.store.folder)}
            | self.plan.as_dict(self.paper, states, commands)
        )

    def run(self, yes: bool) -> None:
        """Run the unfinished rows, after confirmation."""
        from tangovlm.evaluate.reproduce import execute, planning
        from tangovlm.evaluate.reproduce.harnesses.choice import check_installed

        states = self.store.states()
        if not execute.unfinished(self.plan, states):
            log("all rows are finished")
            return
        check_installed(self.harness)
        planning.check_devices(self.plan, _device_bytes(), _device_name() or "the GPU")
        self._check_data()
        self._log_note()
        if not (self._tiny or _device_bytes()):
            log(f"note: PyTorch finds no GPU, so the predictions are for {self.plan.device}")
        show_markdown(planning.markdown(self.plan, states), to_stderr=True)
        if not yes:
            _confirm()
        data = self._miniature()
        execute.execute(self.plan, self.harness, self.store, data, log)

    def _log_note(self) -> None:
        if self.note:
            log(f"note: {self.note}")

    @property
    def _tiny(self) -> bool:
        from tangovlm.evaluate.reproduce.models import TINY

        return self.plan.shape.model == TINY

    def _check_data(self) -> None:
        missing = [] if self._tiny else self.harness.missing(self.plan.benchmarks)
        if missing:
            raise InputError(f"data sets are missing, and nothing was started. {'. '.join(missing)}")

    def _miniature(self) -> Path | None:
        """Write the data sets of the embedded model and return their directory; None for other models."""
        if not self._tiny:
            return None
        log("note: the embedded model knows only its synthetic world: writing data sets of rendered clips")
        self.harness.miniature(self.store.make_folder(self.store.data), self.plan.limit or MINIATURE_QUESTIONS)
        return self.store.data

    def show(self, as_json: bool) -> None:
        """Write the table and show it."""
        from tangovlm.evaluate.reproduce import pages
        from tangovlm.evaluate.reproduce.compare import compare

        found = self.store.results()
        lines = compare(self.plan, found, self.paper)
        headings = [_origin(list(found.values()))]
        text = pages.markdown(self.plan, lines, self.paper, headings)
        base = self.store.folder / self.plan.table.name
        result = self.plan.as_dict(self.paper, self.store.states(), {}) | {"lines": [line.as_dict() for line in lines]}
        write_whole(base.with_suffix(".md"), text.encode())
        write_whole(base.with_suffix(".html"), pages.html(self.plan, lines, self.paper, headings).encode())
        write_whole(base.with_suffix(".json"), json.dumps(result, indent=1, allow_nan=False).encode())
        if as_json:
            show_json(result | {"markdown": str(base.with_suffix(".md")), "html": str(base.with_suffix(".html"))})
            return
        show_markdown(text)
        log(f"table: {base}.md, {base}.html, {base}.json")


def _origin(found: list[Results]) -> str:
    """A sentence on the origin of the figures."""
    used = dict.fromkeys(each.harness for each in found)
    devices = dict.fromkeys(str(each.measured["device"]) for each in found if each.measured)
    places = f", on {' and '.join(devices)}" if devices else ""
    return f"Run with {' and '.join(used)}, tangovlm {tangovlm.__version__}{places}."


def _confirm() -> None:
    if not sys.stdin.isatty():
        raise InputError(
            "stdin is no terminal, so that nobody can confirm: give --yes, or --dry-run to see the plan only"
        )
    if not typer.confirm("Start?", err=True):
        raise typer.Abort


def _device_name() -> str | None:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def _device_bytes() -> list[int]:
    import torch

    return [torch.cuda.get_device_properties(number).total_memory for number in range(torch.cuda.device_count())]
