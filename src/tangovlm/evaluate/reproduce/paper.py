"""Numbers published in the paper, each with its source. A number that is not in the file is reported as unknown."""

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from tangovlm.errors import InputError

from .rows import Row

UNKNOWN = "not available here"
"""Text of a table cell without a published number."""


class Paper:
    """Published numbers by table, group, row and figure.

    Parameters
    ----------
    own: a JSON file by the user in the format of the library's own file. Its numbers are added to the library's and
        override them; a figure may be a plain number.
    known: whether the library's numbers are used; False for a model that the paper does not measure.

    Raises
    ------
    InputError: a file that cannot be read or has another format.
    """

    def __init__(self, own: Path | None = None, *, known: bool = True) -> None:
        text = files(__package__).joinpath("paper.json").read_text(encoding="utf-8")
        self._known = _parse(text, "paper.json") if known else {}
        self._own: dict[tuple[str, ...], dict[str, Any]] = {}
        if own is not None:
            try:
                own_text = own.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(f"--paper {own} cannot be read: give a JSON file of published numbers") from error
            self._own = _parse(own_text, f"--paper {own}")

    def of(self, table: str, row: Row) -> dict[str, float]:
        """Figures of a row by name, such as "mvbench", "videomme/short", "average" or "percent_of_baseline"."""
        return {name: each["value"] for name, each in self._entries(table, row).items()}

    def sources(self, table: str, rows: tuple[Row, ...]) -> list[str]:
        """The sources of the figures of a table, without repetitions."""
        return list(dict.fromkeys(each["source"] for row in rows for each in self._entries(table, row).values()))

    def _entries(self, table: str, row: Row) -> dict[str, Any]:
        key = (table, row.group, row.published or row.label)
        return self._known.get(key, {}) | self._own.get(key, {})


def _parse(text: str, name: str) -> dict[tuple[str, ...], dict[str, Any]]:
    try:
        return {
            (table, group, row): {figure: _entry(value, name) for figure, value in figures.items() if value is not None}
            for table, groups in json.loads(text).items()
            for group, rows in groups.items()
            for row, figures in rows.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f'{name} is no file of published numbers ({error}): its format is {{"table1": {{"10 %": {{"Tango": '
            '{"mvbench": 57.1}}}}'
        ) from error


def _entry(value: Any, name: str) -> dict[str, Any]:
    entry = value if isinstance(value, Mapping) else {"value": value, "source": name}
    if isinstance(entry["value"], bool) or not isinstance(entry["value"], int | float):
        raise ValueError(f"{entry['value']!r} is no number")
    return {"value": float(entry["value"]), "source": str(entry.get("source", name))}


def profile() -> dict[str, float]:
    """The profile in the authors' README: LLaVA-OneVision-7B with Tango at 10 % on 8 A800; the names have the units."""
    text = files(__package__).joinpath("paper.json").read_text(encoding="utf-8")
    return {name: each["value"] for name, each in _parse(text, "paper.json")["profile", "10 %", "Tango"].items()}
