"""Numbers that the paper published, each with its source; what is not in the file is not known, and said to be so."""

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from tangovlm.errors import InputError

from .rows import Row

UNKNOWN = "not available here"
"""What a table says where the file has no number."""


class Paper:
    """Published numbers by table, group, row and figure.

    Parameters
    ----------
    own: a JSON file of the user's that adds to what comes with the library and goes before it, in the same form; a
        figure may be a bare number there.
    known: whether what comes with the library counts; not for a model that the paper has not measured.

    Raises
    ------
    InputError: a file that cannot be read, or is of another form; says where.
    """

    def __init__(self, own: Path | None = None, *, known: bool = True) -> None:
        text = files(__package__).joinpath("paper.json").read_text(encoding="utf-8")
        self._known = _parse(text, "paper.json") if known else {}
        self._own: dict[tuple[str, ...], dict[str, Any]] = {}
        if own is not None:
            try:
                given = own.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(f"--paper {own} cannot be read: give a JSON file of published numbers") from error
            self._own = _parse(given, f"--paper {own}")

    def of(self, table: str, row: Row) -> dict[str, float]:
        """Figures of a row by name, such as "mvbench", "videomme/short", "average" or "percent_of_baseline"."""
        return {name: each["value"] for name, each in self._entries(table, row).items()}

    def sources(self, table: str, rows: tuple[Row, ...]) -> list[str]:
        """Where the figures of a table come from, each source once."""
        told = (each["source"] for row in rows for each in self._entries(table, row).values())
        return list(dict.fromkeys(told))

    def _entries(self, table: str, row: Row) -> dict[str, Any]:
        place = (table, row.group, row.published or row.label)
        return self._known.get(place, {}) | self._own.get(place, {})


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
            f'{name} is no file of published numbers ({error}): its form is {{"table1": {{"10 %": {{"Tango": '
            '{"mvbench": 57.1}}}}'
        ) from error


def _entry(value: Any, name: str) -> dict[str, Any]:
    entry = value if isinstance(value, Mapping) else {"value": value, "source": name}
    if isinstance(entry["value"], bool) or not isinstance(entry["value"], int | float):
        raise ValueError(f"{entry['value']!r} is no number")
    return {"value": float(entry["value"]), "source": str(entry.get("source", name))}


def profile() -> dict[str, float]:
    """The figures of the authors' README, LLaVA-OneVision-7B with Tango at 10 % on 8 A800; names say the unit."""
    text = files(__package__).joinpath("paper.json").read_text(encoding="utf-8")
    return {name: each["value"] for name, each in _parse(text, "paper.json")["profile", "10 %", "Tango"].items()}
