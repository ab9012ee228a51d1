"""Files of results: JSON lines that grow by one clip at a time and survive a kill.

A line is an object or a list. Objects: a header (benchmark, model, machine, versions), again whenever one of these
changes; or a run, with its number in this file. A list is one answer: `Row`. A last line without its end was torn by
a kill and is dropped; anything else that does not fit is damage, which is reported and left alone.
"""

import gzip
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from tangovlm.errors import InputError

from .appended import AppendedFile
from .look import Look
from .runs import Run, key_of
from .task import QUESTIONS

FIXED = {
    "benchmark": "benchmark",
    "version": "version of the benchmark",
    "questions": "set of questions",
    "weights": "model",
    "dtype": "number format",
}
"""Entries of the header that all answers of a file share, and what they tell apart."""
_TYPES: dict[str, tuple[type, ...]] = {
    "benchmark": (str,),
    "version": (int,),
    "questions": (str,),
    "model": (str,),
    "weights": (str,),
    "dtype": (str,),
    "device": (str,),
    "machine": (dict,),
    "threads": (int,),
    "versions": (dict,),
}
_MACHINE_TYPES: dict[str, tuple[type, ...]] = {"cpu": (str,), "cores": (int, type(None))}
_HEADER_START = b'{"benchmark"'
_MOST_TOKENS = 2**31


class Row(NamedTuple):
    """An answer to a question under a run."""

    run: int
    number: int
    exact: int
    """1 if the generated answer is the true one, else 0."""
    chosen: int
    """1 if the true choice is the likeliest, else 0."""
    tokens: int
    """Visual tokens that the language model was given."""
    answer: str
    look: list[float] | None
    """What `look.look` says of the kept tokens; None for a method inside the language model."""


@dataclass
class Content:
    """What a file holds; `runs` is spec's key to number, `rows` is (run, question) to the answer."""

    headers: list[dict[str, Any]] = field(default_factory=list)
    runs: dict[str, int] = field(default_factory=dict)
    rows: dict[tuple[int, int], Row] = field(default_factory=dict)
    size: int = 0
    """Bytes up to the end of the last whole line."""


def read(path: Path, header: Mapping[str, Any] | None = None) -> Content:
    """Read a file of results, which may be compressed as ``.gz``; one that is not there holds nothing.

    Parameters
    ----------
    header: what a header must agree with in `FIXED`; None = anything.

    Raises
    ------
    InputError: damage, or results of another benchmark or model; names the file and the line.
    """
    content = Content()
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except FileNotFoundError:
        return content
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({error}): mend it or choose another --output") from error
    content.size = data.rfind(b"\n") + 1
    for number, line in enumerate(data[: content.size].splitlines(), start=1):
        try:
            _take(content, json.loads(line), header)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            reason = str(error) if isinstance(error, _DamageError) else "is damaged"
            raise InputError(f"{path} line {number} {reason}: mend it or choose another --output") from error
    tail = data[content.size :]
    if not content.headers and not (tail.startswith(_HEADER_START) or _HEADER_START.startswith(tail)):
        raise InputError(f"{path} line 1 is no header of tangovlm eval: choose another --output")
    return content


class ResultsFile:
    """A file of results that is open for more; use as a context.

    Raises
    ------
    InputError: see `read`; or it cannot be written, or another process writes to it too.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self._header = dict(header)
        self._file = AppendedFile(path, "another --output")
        try:
            self.content = read(path, header)
            self._file.begin(self.content.size)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def number(self, run: Run) -> int:
        """The number of a run in this file, which a new one gets."""
        if run.key not in self.content.runs:
            self.content.runs[run.key] = len(self.content.runs)
            self._write([{"run": self.content.runs[run.key], "spec": run.spec}])
        return self.content.runs[run.key]

    def add(self, rows: Sequence[Row]) -> None:
        """Append answers in one piece."""
        self._write([list(row) for row in rows])
        self.content.rows |= {(row.run, row.number): row for row in rows}

    def _write(self, lines: Iterable[Any]) -> None:
        lines = list(lines)
        if self._header not in self.content.headers[-1:]:
            self.content.headers.append(self._header)
            lines.insert(0, self._header)
        self._file.write(lines)


class _DamageError(ValueError):
    """Damage that has a name."""


def _take(content: Content, line: Any, header: Mapping[str, Any] | None) -> None:
    """Put one line into the content."""
    if isinstance(line, dict) and "benchmark" in line:
        for name, words in FIXED.items():
            if header is not None and line[name] != header[name]:
                raise _DamageError(f"is of another {words}")
        if not (_has(line, _TYPES) and _has(line["machine"], _MACHINE_TYPES)):
            raise _DamageError("is no whole header")
        content.headers.append(line)
        return
    if not content.headers:
        raise _DamageError("is no header of tangovlm eval")
    if isinstance(line, dict):
        if not isinstance(line["spec"], dict):
            raise _DamageError("is no run")
        if line["run"] != len(content.runs) or key_of(line["spec"]) in content.runs:
            raise _DamageError("numbers a run anew")
        content.runs[key_of(line["spec"])] = line["run"]
        return
    row = Row(*line)
    counts = all(type(value) is int for value in row[:5]) and 0 <= row.tokens < _MOST_TOKENS
    if not counts or not isinstance(row.answer, str) or not _is_look(row.look) or {row.exact, row.chosen} - {0, 1}:
        raise _DamageError("is no answer")
    if not 0 <= row.run < len(content.runs) or not 0 <= row.number < QUESTIONS:
        raise _DamageError("answers what was not asked")
    if (row.run, row.number) in content.rows:
        raise _DamageError("repeats an answer")
    content.rows[row.run, row.number] = row


def _has(entries: Mapping[str, Any], types: Mapping[str, tuple[type, ...]]) -> bool:
    """Whether all of these entries are there and of their types; a bool is no int."""
    return all(name in entries and type(entries[name]) in allowed for name, allowed in types.items())


def _is_look(value: Any) -> bool:
    """Whether this is what `Look` holds, or None."""
    if value is None:
        return True
    return (
        isinstance(value, list)
        and len(value) == len(Look._fields)
        and all(type(share) in (int, float) and 0 <= share <= 1 for share in value)
    )
