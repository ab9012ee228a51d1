"""Rows of a benchmark as a table, and the files that keep them: one JSON object a line, each whole by itself."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tangovlm.errors import InputError

Row = Mapping[str, Any]
_NUMBER = re.compile(r"(-?[\d,]+(\.\d+)?( %)?)?")


class Column(NamedTuple):
    """A column of a table: its title, and what it says of a row."""

    title: str
    cell: Callable[[Row], str]


def number(name: str, digits: int = 1) -> Callable[[Row], str]:
    """A cell with the figure of this name, with commas between thousands; empty where it was not taken."""

    def cell(row: Row) -> str:
        return "" if row[name] is None else f"{row[name]:,.{digits}f}"

    return cell


def giga(name: str) -> Callable[[Row], str]:
    """The same in 10^9, whole."""
    return lambda row: f"{row[name] / 10**9:,.0f}"


def text(name: str) -> Callable[[Row], str]:
    """A cell with the entry of this name as it is."""
    return lambda row: str(row[name])


def markdown(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """A table in Markdown."""
    cells = [[column.cell(row) for column in columns] for row in rows]
    rule = ["--:" if _numeric(column) else "---" for column in zip(*cells, strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in ([column.title for column in columns], rule, *cells))


def aligned(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """The same for a terminal, in lines that are never broken; a word of a title below the other."""
    cells = list(zip(*([column.cell(row) for column in columns] for row in rows), strict=True))
    titles = [column.title.split() for column in columns]
    height = max(map(len, titles))
    parts = []
    for title, column in zip(titles, cells, strict=True):
        lines = [*[""] * (height - len(title)), *title, *column]
        width = max(map(len, lines))
        parts.append([line.rjust(width) if _numeric(column) else line.ljust(width) for line in lines])
    return "\n".join("  ".join(line).rstrip() for line in zip(*parts, strict=True))


def origin(rows: Sequence[Row]) -> str:
    """What rows were taken with: each device with its machine, threads and version of PyTorch once, in a sentence."""
    return f"Taken with {'; '.join(dict.fromkeys(_place(row) for row in rows))}."


def append(path: Path, rows: Sequence[Row]) -> None:
    """Add rows to the end of a file, which is made if it is not there.

    Raises
    ------
    InputError: it cannot be written.
    """
    lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(lines)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}: choose another --out") from error


def read(path: Path, keys: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a file; of those that have equal entries under ``keys`` the last, at the place of the first.

    Raises
    ------
    InputError: a line that is no row; names it.
    """
    rows: dict[str, dict[str, Any]] = {}
    for place, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            rows[json.dumps([row[key] for key in keys])] = row
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} line {place} is no row of this benchmark: mend it or take it anew") from error
    return list(rows.values())


def _place(row: Row) -> str:
    version = f"torch {row['versions']['torch']}"
    if "machine" not in row:
        return version
    device = "" if row["device"] == "cpu" else f"{row['device']}, "
    threads = f"{row['threads']} {'thread' if row['threads'] == 1 else 'threads'}"
    return f"{device}{row['machine']['cpu']}, {threads}, {row['machine']['system']}, {version}"


def _numeric(cells: Sequence[str]) -> bool:
    """Whether these are numbers, which stand to the right."""
    return all(_NUMBER.fullmatch(cell) for cell in cells)
