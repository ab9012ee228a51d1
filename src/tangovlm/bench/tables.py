"""Rows of a benchmark as tables, and their files: one self-contained JSON object per line.

The entry "benchmark" of a row names the command of `tangovlm bench`. Old rows lack it and are identified by their other
entries.
"""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tangovlm.errors import InputError

Row = Mapping[str, Any]
_NUMBER = re.compile(r"(-?[\d,]+(\.\d+)?( %)?)?")


class Column(NamedTuple):
    """A column of a table: its title, and the function from a row to the text of its cell."""

    title: str
    cell: Callable[[Row], str]


def number(name: str, digits: int = 1) -> Callable[[Row], str]:
    """A cell with the number of this name, with thousands separators; empty if it was not measured."""

    def cell(row: Row) -> str:
        return "" if row[name] is None else f"{row[name]:,.{digits}f}"

    return cell


def giga(name: str) -> Callable[[Row], str]:
    """A cell with the number of this name in units of 10^9, rounded."""
    return lambda row: f"{row[name] / 10**9:,.0f}"


def text(name: str) -> Callable[[Row], str]:
    """A cell with the entry of this name, unchanged."""
    return lambda row: str(row[name])


def markdown(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """Format rows as a Markdown table."""
    cells = [[column.cell(row) for column in columns] for row in rows]
    rule = ["--:" if _numeric(column) else "---" for column in zip(*cells, strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in ([column.title for column in columns], rule, *cells))


def origin(rows: Sequence[Row]) -> str:
    """A sentence on the devices, machines, threads and PyTorch versions that rows were measured with."""
    return f"Measured with {'; '.join(dict.fromkeys(_place(row) for row in rows))}."


def append(path: Path, benchmark: str, rows: Sequence[Row]) -> None:
    """Append rows of a benchmark to a file, starting on a new line; the file is created if it does not exist.

    Raises
    ------
    InputError: the file cannot be written.
    """
    lines = "".join(json.dumps({"benchmark": benchmark, **row}, allow_nan=False) + "\n" for row in rows)
    try:
        with path.open("a+b") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                lines = ("" if file.read() == b"\n" else "\n") + lines
            file.write(lines.encode())
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}: choose another --out") from error


def read(path: Path, benchmark: str, keys: Sequence[str]) -> list[dict[str, Any]]:
    """Read the rows of a file. Among rows with equal entries under ``keys``, the last replaces the first.

    Raises
    ------
    InputError: the file cannot be read, or a line is not a row of this benchmark; the message names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}: choose another file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} holds no rows of a benchmark: choose another file") from error
    rows: dict[str, dict[str, Any]] = {}
    for place, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            named, key = row.get("benchmark", benchmark), json.dumps([row[key] for key in keys])
        except (ValueError, KeyError, TypeError, AttributeError):
            named = None
        if named != benchmark:
            raise InputError(f"{path} line {place} is no row of `tangovlm bench {benchmark}`: choose another file")
        rows[key] = row
    return list(rows.values())


def _place(row: Row) -> str:
    version = ", ".join(f"{name} {row['versions'][name]}" for name in ("torch", "vllm") if name in row["versions"])
    if "machine" not in row:
        return version
    device = "" if row["device"] == "cpu" else f"{row['device']}, "
    threads = f"{row['threads']} {'thread' if row['threads'] == 1 else 'threads'}"
    return f"{device}{row['machine']['cpu']}, {threads}, {row['machine']['system']}, {version}"


def _numeric(cells: Sequence[str]) -> bool:
    """Whether all cells are numbers, which are aligned to the right."""
    return all(_NUMBER.fullmatch(cell) for cell in cells)
