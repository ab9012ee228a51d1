"""`tangovlm doctor`: which packages are installed, and whether the library works correctly with them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from time import perf_counter
from typing import Annotated

import typer

from tangovlm.doctor import FAILED, Row, examine

from ..options import AsJson
from ..output import plain, show, show_json


def doctor(
    family: Annotated[
        str | None,
        typer.Option(
            help="Check the installation and this model family only; `tangovlm models` lists them.",
            show_default="all families",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check the installation, the model families, the kernels and the video decoder.

    Please include the output in bug reports.
    """
    from rich.console import Console

    start = perf_counter()
    # Libraries may print messages while they are imported.
    with redirect_stdout(sys.stderr), Console(stderr=True).status("") as status:
        rows = []
        for examination in examine(family):
            status.update(plain(f"{examination.part}: {examination.name}"))
            rows.append(examination.row())
    seconds, failed = perf_counter() - start, sum(row.status == FAILED for row in rows)
    if as_json:
        listed = [asdict(row) | {"seconds": round(row.seconds, 3)} for row in rows]
        show_json({"ok": not failed, "failed": failed, "seconds": round(seconds, 3), "rows": listed})
    else:
        show("\n".join(_lines(rows)))
        show(f"{failed} of {len(rows)} FAILED, {seconds:.1f} s" if failed else f"nothing FAILED, {seconds:.1f} s")
    if failed:
        raise typer.Exit(1)


def _lines(rows: Sequence[Row]) -> Iterator[str]:
    """Yield one line per row, however long, so that a bug report contains all of it."""
    cells = [("part", "name", "status", "s", "detail")]
    cells += [(row.part, row.name, row.status, f"{row.seconds:.1f}", row.detail) for row in rows]
    part, name, status, seconds, _ = (max(map(len, column)) for column in zip(*cells, strict=True))
    for cell in cells:
        yield f"{cell[0]:{part}}  {cell[1]:{name}}  {cell[2]:{status}}  {cell[3]:>{seconds}}  {cell[4]}"
