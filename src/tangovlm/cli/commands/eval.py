"""`tangovlm eval`: the benchmark of the embedded model's world, under one method or under a table of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tangovlm.errors import InputError
from tangovlm.report import check_writable, write_whole

from ..checks import check_at_least_one, device
from ..output import only_results, show, show_json, talk

if TYPE_CHECKING:
    from tangovlm.evaluate.summary import Line
    from tangovlm.evaluate.tables import Table


class TableName(StrEnum):
    """The tables of `evaluate.tables`."""

    METHODS = "methods"
    ABLATION = "ablation"
    BASES = "bases"
    EXPANSION = "expansion"
    FRAMES = "frames"
    PLACEMENT = "placement"
    PAIRS = "pairs"


_NO_SETTINGS = {
    "retention": "use --retention",
    "name": "use --method",
    "label": "rows are called after method and settings",
    "group": "rows are gathered by --retention",
}
"""What `evaluate.runs.run` takes beside settings, and what to do instead."""


def evaluate(
    method: Annotated[
        list[str] | None, typer.Option(help="A method; may be given again. Left out: tango.", show_default=False)
    ] = None,
    retention: Annotated[
        list[float] | None,
        typer.Option(help="A fraction to keep; may be given again. Left out: 0.1, or the table's.", show_default=False),
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(
            help="A setting of the methods, such as neighbors=5, or frames, saliency or positions; may be given again.",
            show_default=False,
        ),
    ] = None,
    table: Annotated[TableName | None, typer.Option(help="A whole table of runs.", show_default=False)] = None,
    limit: Annotated[
        int | None, typer.Option(help="Only the first so many questions, evenly over the kinds.", show_default=False)
    ] = None,
    kinds: Annotated[
        str | None, typer.Option(help="Only questions of these kinds, with commas between.", show_default=False)
    ] = None,
    look: Annotated[bool, typer.Option("--look", help="Show what the kept tokens lie on too.")] = False,
    model: Annotated[
        str | None, typer.Option(help="A model's folder or hub id; left out, the embedded model.", show_default=False)
    ] = None,
    output: Annotated[Path, typer.Option(help="The folder of results; answers found there are kept.")] = Path(
        "tangovlm-eval"
    ),
    threads: Annotated[int | None, typer.Option(help="Threads to compute with.", show_default=False)] = None,
    device_name: Annotated[
        str | None, typer.Option("--device", help="Where to run, such as cpu or cuda.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON; all talk on stderr.")] = False,
) -> None:
    """Measure methods on the questions of the synthetic world, beside the model without pruning."""
    check_at_least_one("--limit", limit)
    check_at_least_one("--threads", threads)
    with only_results():
        from tangovlm.evaluate.summary import page
        from tangovlm.evaluate.task import cases

        chosen = _table(table, method or [], retention or [], param or [])
        asked = cases(limit, _kinds(kinds), chosen.lengths)
        chosen, lines, headers, results = _run(chosen, asked, output, model, threads, device(device_name))
    _show(chosen, page(chosen, lines, headers, look), lines, results, as_json)


def _table(name: TableName | None, methods: list[str], retentions: list[float], params: list[str]) -> Table:
    from tangovlm.evaluate import tables

    settings = dict(_setting(each) for each in params)
    if name is None:
        return tables.custom(methods or ["tango"], retentions or [0.1], settings)
    if settings:
        raise InputError("--param does not go with --table, which has its own settings: leave one of them out")
    return tables.table(name.value, retentions, methods)


def _setting(text: str) -> tuple[str, Any]:
    """`key=value`; the value is JSON, or else text."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise InputError(f"--param is {text!r}: give key=value, such as neighbors=5")
    if key in _NO_SETTINGS:
        raise InputError(f"--param cannot set {key}: {_NO_SETTINGS[key]}")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, {"True": True, "False": False, "None": None}.get(value, value)


def _kinds(text: str | None) -> Sequence[str]:
    from tangovlm.tiny.synthetic.questions import KINDS

    wanted = KINDS if text is None else tuple(kind.strip() for kind in text.split(","))
    for kind in wanted:
        if kind not in KINDS:
            raise InputError(f"--kinds has {kind!r}: choose of {', '.join(KINDS)}")
    return wanted


def _run(
    table: Table, asked: Sequence[Any], output: Path, model: str | None, threads: int | None, device_name: str | None
) -> tuple[Table, list[Line], list[dict[str, Any]], Path]:
    import torch

    from tangovlm.evaluate.provenance import header
    from tangovlm.evaluate.results import ResultsFile
    from tangovlm.evaluate.runner import check, execute
    from tangovlm.evaluate.summary import summarize
    from tangovlm.pipeline import load as loading
    from tangovlm.tiny.loop import Progress

    if threads is not None:
        torch.set_num_threads(threads)
    path = output / f"{table.name}.jsonl"
    if output.exists():
        check_writable(path.with_suffix(".md"), "--output: the table")
    llm = loading.load(model, device=device_name, dtype=torch.float32)
    if table.name in list(TableName):
        layers: Any = llm.family.decoder.layers
        table = table.within(len(layers))
    check(llm, table.runs)
    total = len(table.runs) * sum(len(case.asked) for case in asked)
    with ResultsFile(path, header(llm)) as results, Progress("answers", total) as progress:
        execute(llm, table.runs, asked, results, lambda count: progress.step({}, count))
        return table, summarize(table, asked, results.content), results.content.headers, path


def _show(table: Table, text: str, lines: list[Line], results: Path, as_json: bool) -> None:
    path = results.with_suffix(".md")
    write_whole(path, text.encode())
    if as_json:
        unreachable = [{"label": run.label, "group": run.group, "reason": why} for run, why in table.unreachable]
        show_json(
            {"table": table.name, "results": str(results), "markdown": str(path)}
            | {"rows": [line.as_dict() for line in lines], "unreachable": unreachable}
        )
        return
    show(text)
    talk(f"results: {results}, table: {path}")
