"""What the benchmark commands share: checks of counts and devices, and the rows that they write and show."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tangovlm.errors import InputError
from tangovlm.report import check_writable

from .checks import check_at_least_one, check_device
from .output import only_results, show_json, show_table

if TYPE_CHECKING:
    import torch

    from tangovlm.bench.tables import Column

    from .options import Dtype

_MAX_COUNT = 10**6
_MAX_THREADS = 4 * (os.cpu_count() or 1)
"""More than any measurement needs, and few enough to start."""


class Benchmark(Protocol):
    """The module of a benchmark: the entries that identify a row, and the columns of its table."""

    @property
    def KEYS(self) -> Sequence[str]: ...  # noqa: N802

    @property
    def COLUMNS(self) -> Sequence[Column]: ...  # noqa: N802


def prepare(device_name: str | None, repeats: int, threads: int | None, out: Path | None) -> torch.device:
    """Check the options that timed benchmarks share, set the number of threads, and return the device.

    Raises
    ------
    InputError: a count out of range, a file that cannot be written, or a device that cannot be measured.
    """
    check_counts("--repeats", repeats)
    check_counts("--threads", threads, most=_MAX_THREADS)
    check_out(out)
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    device = torch.device(check_device(device_name) or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type not in {"cpu", "cuda"}:
        raise InputError(f"--device {device_name} cannot be measured: choose cpu or cuda")
    return device


def check_counts(option: str, *values: int | None, most: int = _MAX_COUNT) -> None:
    """Raise `InputError` for a count below one or above ``most``."""
    for value in values:
        check_at_least_one(option, value)
        if value is not None and value > most:
            raise InputError(f"{option} is {value}: it can be at most {most}")


def check_out(out: Path | None) -> None:
    """Raise `InputError` if the file of rows cannot be written."""
    if out is not None:
        check_writable(out, "--out")


def torch_dtype(name: Dtype | None) -> torch.dtype | None:
    """The data type of this name; None for None."""
    import torch

    dtype: torch.dtype | None = None if name is None else getattr(torch, name.value)
    return dtype


def collect(name: str, benchmark: Benchmark, rows: Iterable[dict[str, Any]], out: Path | None) -> list[dict[str, Any]]:
    """Run a benchmark to its end and return its rows; append each row to a file as soon as it is measured.

    Raises
    ------
    InputError: the file exists and contains rows of another benchmark; nothing is measured then.
    """
    from tangovlm.bench.tables import append, read

    if out is not None and out.exists():
        read(out, name, benchmark.KEYS)
    collected = []
    with only_results():
        for row in rows:
            collected.append(row)
            if out is not None:
                append(out, name, [row])
    return collected


def finish(name: str, benchmark: Benchmark, rows: Iterable[dict[str, Any]], out: Path | None, as_json: bool) -> None:
    """Collect the rows of a benchmark, and show them as a table or as JSON."""
    collected = collect(name, benchmark, rows, out)
    if as_json:
        show_json({"benchmark": name, "rows": collected})
        return
    show_rows(collected, benchmark)


def show_rows(rows: Sequence[Mapping[str, Any]], benchmark: Benchmark) -> None:
    """Show rows as a table that fits the terminal."""
    columns = benchmark.COLUMNS
    show_table([column.title for column in columns], [[column.cell(row) for column in columns] for row in rows])
