"""Timings, tables and files of rows."""

from pathlib import Path
from typing import Any

import pytest

from tangovlm.bench.tables import Column, append, giga, markdown, number, origin, read, text
from tangovlm.errors import InputError

COLUMNS = (Column("name", text("name")), Column("long title", number("value")), Column("size", giga("size")))
ROWS: list[dict[str, Any]] = [
    {"name": "first", "value": 1234.56, "size": 5 * 10**9},
    {"name": "2nd", "value": None, "size": 10**12},
]


def test_markdown() -> None:
    assert markdown(ROWS, COLUMNS).splitlines() == [
        "| name | long title | size |",
        "| --- | --: | --: |",
        "| first | 1,234.6 | 5 |",
        "| 2nd |  | 1,000 |",
    ]


def test_file_keeps_the_last_of_equal_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append(path, "race", ROWS)
    append(path, "race", [ROWS[0] | {"value": 7.0}])
    named = {"benchmark": "race"}
    assert read(path, "race", ["name"]) == [named | ROWS[0] | {"value": 7.0}, named | ROWS[1]]
    assert len(read(path, "race", ["name", "value"])) == 3


def test_rows_begin_on_a_line_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"name": "old"}')
    append(path, "race", ROWS)
    assert [row["name"] for row in read(path, "race", ["name"])] == ["old", "first", "2nd"]
    path.write_text("")
    append(path, "race", ROWS[:1])
    assert path.read_text().startswith('{"benchmark": "race", "name": "first"')
    assert path.read_text().count("\n") == 1


@pytest.mark.parametrize("line", ["{", "[1]", '{"value": 1}', "7", "", '{"benchmark": "walk", "name": "x"}'])
def test_damage_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rows.jsonl"
    append(path, "race", ROWS[:1])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(InputError, match=r"rows\.jsonl line 2 is no row of `tangovlm bench race`"):
        read(path, "race", ["name"])


def test_what_is_no_text_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    with pytest.raises(InputError, match="cannot read"):
        read(path, "race", ["name"])
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="holds no rows"):
        read(path, "race", ["name"])


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot write .*choose another --out"):
        append(tmp_path / "missing" / "rows.jsonl", "race", ROWS)


def test_origin_names_each_place_once() -> None:
    row = {"device": "cpu", "machine": {"cpu": "Chip", "system": "Linux"}, "threads": 2, "versions": {"torch": "9.9"}}
    rows = [row, row | {"device": "Card"}, row, row | {"threads": 1}]
    assert origin(rows) == (
        "Measured with Chip, 2 threads, Linux, torch 9.9; Card, Chip, 2 threads, Linux, torch 9.9; "
        "Chip, 1 thread, Linux, torch 9.9."
    )
    assert origin([{"versions": {"torch": "9.9"}}]) == "Measured with torch 9.9."
