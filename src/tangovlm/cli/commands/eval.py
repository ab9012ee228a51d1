"""`tangovlm eval`: the synthetic benchmark tangoworld, for chosen methods or for a whole table of runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tangovlm
from tangovlm.errors import InputError
from tangovlm.report import check_writable, write_whole
from tangovlm.report.plot import check_matplotlib

from ..checks import check_at_least_one, check_device
from ..options import AsJson, DeviceName, Model, Threads
from ..output import log, only_results, show_json, show_markdown

if TYPE_CHECKING:
    from tangovlm.evaluate.tables import Table
    from tangovlm.evaluate.tables.summary import Line
    from tangovlm.evaluate.tangoworld import Benchmark


class TableName(StrEnum):
    """The tables of `evaluate.tables`."""

    METHODS = "methods"
    MILONGA = "milonga"
    ADAPTIVE = "adaptive"
    FRAMES = "frames"
    ENCODE = "encode"
    QUESTION = "question"
    ABLATION = "ablation"
    BASES = "bases"
    EXPANSION = "expansion"
    PLACEMENT = "placement"
    PAIRS = "pairs"


_NOT_SETTINGS = {
    "retention": "use --retention",
    "name": "use --method",
    "label": "rows are named after method and settings",
    "group": "rows are grouped by --retention",
    "series": "a line of the picture is named after its rows",
    "adaptive": "use --adaptive",
}
"""Parameters of `evaluate.runs.build_run` that are not settings, and what to use instead."""


def evaluate(
    method: Annotated[list[str] | None, typer.Option(help="Pruning method. Repeatable.", show_default="tango")] = None,
    retention: Annotated[
        list[float] | None,
        typer.Option(
            help="Fraction of the visual tokens to keep. Repeatable.", show_default="0.1; with --table, the table's"
        ),
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(
            help="Setting of the methods, such as neighbors=5, or frames, saliency or positions. Repeatable.",
            show_default=False,
        ),
    ] = None,
    adaptive: Annotated[
        bool, typer.Option("--adaptive", help="Let the content decide the count, with --retention as the upper bound.")
    ] = False,
    table: Annotated[TableName | None, typer.Option(help="Predefined table of runs.", show_default=False)] = None,
    limit: Annotated[
        int | None, typer.Option(help="Number of questions, evenly over the kinds.", show_default="all")
    ] = None,
    kinds: Annotated[
        str | None, typer.Option(help="Kinds of question, separated by commas.", show_default="all")
    ] = None,
    benchmark: Annotated[
        int, typer.Option(help="Version of the benchmark; each has an embedded model.", show_default="1")
    ] = 1,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Draw other clips and questions by the same design, for development.", show_default="the official ones"
        ),
    ] = None,
    look: Annotated[bool, typer.Option("--look", help="Also show which objects the kept tokens cover.")] = False,
    picture: Annotated[
        bool, typer.Option("--picture", help="Also plot accuracy against mean tokens, OUTPUT/TABLE.png.")
    ] = False,
    reuse: Annotated[
        list[Path] | None,
        typer.Option(help="Another file of results whose answers are taken over. Repeatable.", show_default=False),
    ] = None,
    model: Model = None,
    output: Annotated[Path, typer.Option(help="Directory of results. Answers in it are reused.")] = Path(
        "tangovlm-eval"
    ),
    threads: Threads = None,
    device_name: DeviceName = None,
    as_json: AsJson = False,
) -> None:
    """Measure the accuracy of methods on tangoworld, with the unpruned model as the baseline."""
    check_at_least_one("--limit", limit)
    check_at_least_one("--threads", threads)
    with only_results():
        from tangovlm.evaluate.tables.markdown import page
        from tangovlm.evaluate.tangoworld import benchmark as benchmark_of
        from tangovlm.evaluate.tangoworld import load_questions

        if picture:
            check_matplotlib("--picture")
        for path in reuse or []:
            if not path.is_file():
                raise InputError(f"--reuse {path}: there is no such file")
        of = benchmark_of(benchmark, seed)
        chosen = _table(table, method or [], retention or [], param or [], adaptive, of)
        asked = load_questions(limit, _kinds(kinds, of), chosen.lengths, of)
        results = output / f"{chosen.name}{of.suffix}.jsonl"
        for suffix in (".md", ".png")[: 1 + picture] if output.exists() else ():
            check_writable(results.with_suffix(suffix), "--output: the table")
        chosen, lines, headers = _run(
            chosen, asked, of, results, reuse or [], model, threads, check_device(device_name)
        )
        if picture:
            _draw(chosen, lines, headers, results)
    _show(chosen, page(chosen, lines, headers, look), lines, results, picture, as_json)


def _table(
    name: TableName | None,
    methods: list[str],
    retentions: list[float],
    params: list[str],
    adaptive: bool,
    of: Benchmark,
) -> Table:
    from tangovlm.evaluate import tables

    settings = dict(_setting(each) for each in params)
    if name is None:
        return tables.custom(methods or ["tango"], retentions or [0.1], settings, adaptive)
    for option, given in (("--param", settings), ("--adaptive", adaptive)):
        if given:
            raise InputError(f"{option} does not go with --table, which has its own settings: leave one of them out")
    return tables.table(name.value, retentions, methods, of)


def _setting(text: str) -> tuple[str, Any]:
    """Parse `key=value`; a value that is not JSON is text."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise InputError(f"--param is {text!r}: give key=value, such as neighbors=5")
    if key in _NOT_SETTINGS:
        raise InputError(f"--param cannot set {key}: {_NOT_SETTINGS[key]}")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, {"True": True, "False": False, "None": None}.get(value, value)


def _kinds(text: str | None, of: Benchmark) -> Sequence[str]:
    kinds = of.kinds if text is None else tuple(kind.strip() for kind in text.split(","))
    for kind in kinds:
        if kind not in of.kinds:
            raise InputError(f"--kinds has {kind!r}: choose from {', '.join(of.kinds)}")
    return kinds


def _run(
    table: Table,
    asked: Sequence[Any],
    of: Benchmark,
    path: Path,
    reuse: Sequence[Path],
    model: str | None,
    threads: int | None,
    device_name: str | None,
) -> tuple[Table, list[Line], list[dict[str, Any]]]:
    import torch

    from tangovlm.evaluate.results import ResultsFile, header
    from tangovlm.evaluate.runner import check_runs, execute
    from tangovlm.evaluate.tables.summary import summarize
    from tangovlm.tiny.loop import Progress

    if threads is not None:
        torch.set_num_threads(threads)
    llm = tangovlm.load(model or of.model, device=device_name, dtype=torch.float32)
    if table.name in list(TableName):
        layers: Any = llm.family.decoder.layers
        table = table.within(len(layers))
    check_runs(llm, table.runs)
    total = len(table.runs) * sum(len(case.questions) for case in asked)
    with ResultsFile(path, header(llm, of)) as results, Progress("answers", total) as progress:
        for other in reuse:
            results.take(other, table.runs)
        execute(llm, table.runs, asked, results, lambda count: progress.step({}, count))
        return table, summarize(table, asked, results.content), results.content.headers


def _draw(table: Table, lines: list[Line], headers: list[dict[str, Any]], results: Path) -> None:
    from tangovlm.evaluate.tables.picture import draw

    draw(results.with_suffix(".png"), table, lines, headers[-1])


def _show(table: Table, text: str, lines: list[Line], results: Path, picture: bool, as_json: bool) -> None:
    path = results.with_suffix(".md")
    write_whole(path, text.encode())
    drawn = {"picture": str(results.with_suffix(".png"))} if picture else {}
    if as_json:
        unreachable = [{"label": run.label, "group": run.group, "reason": why} for run, why in table.unreachable]
        show_json(
            {"table": table.name, "results": str(results), "markdown": str(path)}
            | drawn
            | {"rows": [line.as_dict() for line in lines], "unreachable": unreachable}
        )
        return
    show_markdown(text)
    log(", ".join(f"{what}: {file}" for what, file in {"results": results, "table": path, **drawn}.items()))
