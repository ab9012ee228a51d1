"""Tables of questions as JSON lines or CSV, read lazily: the entries of each row with the number of its line."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import InputError

FORMATS = ("jsonl", "csv")
REQUIRED = ("video", "question")
SAMPLING = ("frames", "fps", "max_frames", "start_s", "end_s", "stream", "seek")
"""Entries that say which frames of the video to take, see `tangovlm.video.FrameSampling`."""
OPTIONAL = ("id", "retention", "max_new_tokens", *SAMPLING)
_NUMBERS = {"retention": float, "fps": float} | dict.fromkeys(("max_new_tokens", "frames", "max_frames", "stream"), int)

Line = tuple[int, Mapping[str, Any] | str]
"""The number of a line, and the entries of its row or the reason why it is none."""

_HEAD_BYTES = 4096
_CLOSE = 0.75
"""Similarity, see `difflib`, from which a name is likely a misspelt one."""


def format_of(path: Path) -> str:
    """The format that the name of a file implies: CSV for ``.csv``, else JSON lines."""
    return "csv" if path.suffix.lower() == ".csv" else "jsonl"


def misspelt(entries: Mapping[str, Any]) -> dict[str, str]:
    """The names of entries that are ignored but resemble one that is read and absent from the row, each with that one.

    >>> misspelt({"video": "a.mp4", "question": "What?", "question_id": 3, "retenton": 0.2})
    {'retenton': 'retention'}
    """
    likely = {name: _resembling(name) for name in entries}
    return {name: known for name, known in likely.items() if known is not None and known not in entries}


@lru_cache(maxsize=1024)
def _resembling(name: str) -> str | None:
    """The entry of a row whose name is most like this one; None if it is such a name, or like none."""
    known = (*REQUIRED, *OPTIONAL)
    if name in known:
        return None
    return next(iter(get_close_matches(name.strip().lower(), known, 1, _CLOSE)), None)


def read_table(path: Path, form: str) -> Iterator[Line]:
    """Every row of a table in one of the `FORMATS`; empty ones are skipped.

    In CSV, values are separated by commas, with or without spaces, and columns are named by the first line. All values
    are text there, so that ids are text too, numbers are parsed, and an empty value is an absent entry.

    Raises
    ------
    InputError: the file cannot be read, is not text, or is CSV without the necessary columns or with broken quotes.
    """
    try:
        with path.open("rb") as file:
            if b"\0" in file.read(_HEAD_BYTES):
                raise InputError(f"{path} is not text: give JSON lines or CSV with a video and a question in each row")
        yield from _csv(path) if form == "csv" else _json_lines(path)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: save it as UTF-8") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): give a file of JSON lines or CSV") from error


def _json_lines(path: Path) -> Iterator[Line]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                entries = json.loads(line)
            except (ValueError, RecursionError):
                entries = None
            if isinstance(entries, dict):
                yield number, entries
            else:
                yield number, 'the line is no JSON object: give {"id": ..., "video": ..., "question": ...}'


def _csv(path: Path) -> Iterator[Line]:
    # Spreadsheets write a byte order mark.
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True, skipinitialspace=True)
        try:
            columns = [name.strip() for name in next(reader, [])]
            _check_columns(path, columns)
            while True:
                # A value in quotes may span several lines.
                number = reader.line_num + 1
                values = next(reader, None)
                if values is None:
                    return
                values = [value.strip() for value in values]
                if any(values):
                    yield number, _entries(columns, values)
        except csv.Error as error:
            if "field limit" in str(error):
                raise InputError(
                    f"{path} line {reader.line_num} has a value of more than {csv.field_size_limit():,} characters: "
                    "shorten it, or check its quotes"
                ) from error
            raise InputError(f"{path} line {reader.line_num} is not CSV ({error}): check its quotes") from error


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        raise InputError(
            f"{path} has no column {' and no column '.join(map(repr, missing))}: name the columns in the first line, "
            f"separated by commas, such as {','.join((*OPTIONAL[:1], *REQUIRED))}"
        )
    for name in (*REQUIRED, *OPTIONAL):
        if columns.count(name) > 1:
            raise InputError(f"{path} has {columns.count(name)} columns {name!r}: leave one")


def _entries(columns: Sequence[str], values: Sequence[str]) -> Mapping[str, Any] | str:
    if len(values) != len(columns):
        return (
            f"the row has {len(values)} values, and there are {len(columns)} columns: put values with commas in "
            "double quotes"
        )
    entries: dict[str, Any] = {name: value for name, value in zip(columns, values, strict=True) if value}
    for name, parse in _NUMBERS.items():
        # Python reads 1_0 as 10.
        if "_" not in entries.get(name, "_"):
            try:
                entries[name] = parse(entries[name])
            except ValueError:
                # The check of the row explains what is wrong with the text.
                continue
    return entries
