"""`tangovlm reproduce`: the tables of the paper in the field's own harnesses."""

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
from ..output import show, show_json, talk

if TYPE_CHECKING:
    from tangovlm.evaluate.reproduce.harnesses.answers import Results
    from tangovlm.evaluate.reproduce.harnesses.base import Harness
    from tangovlm.evaluate.reproduce.paper import Paper
    from tangovlm.evaluate.reproduce.planning import Plan
    from tangovlm.evaluate.reproduce.store import Store


MINIATURE = 20
"""Questions of a data set for the embedded model."""


def reproduce(
    table: Annotated[str, typer.Argument(help="table1 to table4, fig6 to fig9, qwen or beyond.", metavar="TABLE")],
    model: Annotated[
        str | None,
        typer.Option(
            help="A model's folder or hub id, or tangovlm-tiny; left out, the paper's for the table.",
            show_default=False,
        ),
    ] = None,
    harness: Annotated[
        str | None,
        typer.Option(
            help="vlmevalkit, with which the paper measures (the default), or lmms-eval (the default for fig9).",
            show_default=False,
        ),
    ] = None,
    gpus: Annotated[int, typer.Option(help="GPUs that share each row.")] = 1,
    limit: Annotated[
        int | None, typer.Option(help="Only the first so many questions of each benchmark.", show_default=False)
    ] = None,
    rows: Annotated[
        list[str] | None,
        typer.Option(help="A row by its name, or a regular expression; may be given again.", show_default=False),
    ] = None,
    benchmarks: Annotated[
        str | None,
        typer.Option(help="Some of mvbench,longvideobench,mlvu,videomme, with commas between.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="The folder of results; what is finished there is kept.", show_default=False),
    ] = None,
    paper: Annotated[
        Path | None,
        typer.Option(help="A JSON file of the paper's numbers, see docs/reproducing.md.", show_default=False),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan and what it will cost, run nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Start without asking.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON; all talk on stderr.")] = False,
) -> None:
    """Reproduce a table of the paper: plan, run, collect, compare."""
    check_at_least_one("--gpus", gpus)
    check_at_least_one("--limit", limit)
    from tangovlm.evaluate.reproduce import benchmarks as known
    from tangovlm.evaluate.reproduce import planning, store, tables
    from tangovlm.evaluate.reproduce.harnesses import base as harnesses
    from tangovlm.evaluate.reproduce.models import TINY
    from tangovlm.evaluate.reproduce.paper import Paper

    if model == TINY and limit is None:
        limit = MINIATURE
    chosen = tables.table(table)
    runner, note = harnesses.choose(harness, timed=chosen.profile)
    names = [each.strip() for each in benchmarks.split(",")] if benchmarks else []
    plan = planning.make(
        chosen, model, known.chosen(names), rows=rows or (), limit=limit, gpus=gpus, device=_device_name()
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
    """A plan with what it runs in."""

    plan: Plan
    harness: Harness
    store: Store
    paper: Paper
    note: str | None

    def show_plan(self, as_json: bool) -> None:
        """What would run."""
        from tangovlm.evaluate.reproduce import planning
        from tangovlm.evaluate.reproduce.harnesses import base as harnesses

        states = self.store.states()
        self._talk_note()
        if not as_json:
            show(planning.markdown(self.plan, states))
            return
        commands, data = {}, self.store.data if self._tiny else None
        for step in self.plan.reachable:
            work = harnesses.Work(self.plan, step, self.store.harness_folder(step), data)
            commands[step.row.key] = self.harness.command(work).words
        about = {"name": self.harness.name, "version": harnesses.version(self.harness)}
        show_json(
            {"dry_run": True, "harness": about, "output": str(self.store.folder)}
            | self.plan.as_dict(self.paper, states, commands)
        )

    def run(self, yes: bool) -> None:
        """Run what is not finished, if it is wanted."""
        from tangovlm.evaluate.reproduce import execute, planning
        from tangovlm.evaluate.reproduce.harnesses import base as harnesses

        states = self.store.states()
        if not execute.unfinished(self.plan, states):
            talk("all rows are finished")
            return
        harnesses.check_installed(self.harness)
        planning.check_devices(self.plan, _device_bytes(), _device_name() or "the GPU")
        self._check_data()
        self._talk_note()
        if not (self._tiny or _device_bytes()):
            talk(f"note: PyTorch sees no GPU here, and what is predicted is for {self.plan.device}")
        show(planning.markdown(self.plan, states), to_stderr=True)
        if not yes:
            _ask()
        data = self._miniature()
        execute.execute(self.plan, self.harness, self.store, data, talk)

    def _talk_note(self) -> None:
        if self.note:
            talk(f"note: {self.note}")

    @property
    def _tiny(self) -> bool:
        from tangovlm.evaluate.reproduce.models import TINY

        return self.plan.shape.model == TINY

    def _check_data(self) -> None:
        missing = [] if self._tiny else self.harness.missing(self.plan.benchmarks)
        if missing:
            raise InputError(f"data sets are missing, and nothing was started. {'. '.join(missing)}")

    def _miniature(self) -> Path | None:
        """A folder of data sets that the embedded model knows; None for other models, which take the real ones."""
        if not self._tiny:
            return None
        talk("note: the embedded model knows its own world only: data sets of rendered clips are written")
        self.harness.miniature(self.store.made(self.store.data), self.plan.limit or MINIATURE)
        return self.store.data

    def show(self, as_json: bool) -> None:
        """Write and show the table."""
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
        show(text)
        talk(f"table: {base}.md, {base}.html, {base}.json")


def _origin(found: list[Results]) -> str:
    """Where figures come from, in a sentence."""
    used = dict.fromkeys(each.harness for each in found)
    devices = dict.fromkeys(str(each.measured["device"]) for each in found if each.measured)
    places = f", on {' and '.join(devices)}" if devices else ""
    return f"Run with {' and '.join(used)}, tangovlm {tangovlm.__version__}{places}."


def _ask() -> None:
    if not sys.stdin.isatty():
        raise InputError("nobody can be asked whether to start: give --yes, or --dry-run to see the plan only")
    if not typer.confirm("Start?", err=True):
        raise typer.Abort


def _device_name() -> str | None:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def _device_bytes() -> list[int]:
    import torch

    return [torch.cuda.get_device_properties(number).total_memory for number in range(torch.cuda.device_count())]
