"""Tables of questions in both formats."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tangovlm.batch.corpus import InvalidRow, Task
from tangovlm.batch.table import format_of, misspelt
from tangovlm.errors import InputError
from tests.support.batch import corpus, parsed

ROWS: list[dict[str, Any]] = [
    {"id": "a", "video": "a, b.mp4", "question": 'What is "it"?', "retention": "0.5", "max_new_tokens": "3"},
    {"id": "", "video": "b.mp4", "question": "Two\nlines?", "retention": "", "max_new_tokens": ""},
    {"id": "7", "video": "日本.mp4", "question": "What?", "retention": "", "max_new_tokens": ""},
]
TASKS = [
    Task("a", "a, b.mp4", 'What is "it"?', 0.5, 3, own_retention=True),
    Task(3, "b.mp4", "Two\nlines?", 0.1, 64),
    Task("7", "日本.mp4", "What?", 0.1, 64),
]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_csv_as_a_spreadsheet_writes_it(tmp_path: Path, encoding: str, end: str) -> None:
    path = tmp_path / "in.csv"
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, list(ROWS[0]), lineterminator=end)
        writer.writeheader()
        writer.writerows(ROWS)
    assert parsed(path, form=format_of(path)) == TASKS


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("retenton", "retention"), ("Retention", "retention"), ("max_tokens", "max_new_tokens"), ("frame", "frames"),
        ("start", "start_s"), ("question_id", None), ("video_id", None), ("truth", None), ("category", None),
    ],
)  # fmt: skip
def test_entries_that_are_likely_misspelt(name: str, meant: str | None) -> None:
    row = {"video": "a.mp4", "question": "What?", name: "1"}
    assert misspelt(row) == ({} if meant is None else {name: meant})
    if meant is not None:
        assert misspelt({**row, meant: "2"}) == {}


def test_csv_as_it_is_typed(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_text('question , truth, video \n\n"What, now?", yes, a.mp4\n , ,\nWhy? , no, b.mp4 \n')
    assert parsed(path, form="csv") == [
        Task(3, "a.mp4", "What, now?", 0.1, 64),
        Task(5, "b.mp4", "Why?", 0.1, 64),
    ]


@pytest.mark.parametrize(
    ("row", "name", "words"),
    [
        ("x,a.mp4,What, now?,0.5", "line 2", "5 values, and there are 4 columns: put values with commas in double"),
        ("x,a.mp4", "line 2", "2 values"),
        ("x,,What?,", "x", "no video"),
        ("x,a.mp4,,", "x", "no question"),
        ("x,a.mp4,What?,most", "x", "retention must be a number in (0, 1], the fraction of tokens to keep, not 'most'"),
        ("x,a.mp4,What?,2", "x", "retention"),
        ("x,a.mp4,What?,nan", "x", "retention"),
        ("x,a.mp4,What?,0_1", "x", "not '0_1'"),
    ],
)
def test_a_row_of_csv_that_cannot_be_asked(tmp_path: Path, row: str, name: str, words: str) -> None:
    path = tmp_path / "in.csv"
    path.write_text(f"id,video,question,retention\n{row}\nlast,a.mp4,What?,\n")
    refused, task = parsed(path, form="csv")
    assert isinstance(refused, InvalidRow)
    assert (refused.id, task.id) == (name, "last")
    assert words in refused.reason


@pytest.mark.parametrize(
    ("form", "content", "words"),
    [
        ("csv", b"", "no column 'video' and no column 'question': name the columns in the first line"),
        ("csv", b"id;video;question\na;a.mp4;What?\n", "no column 'video' .* separated by commas"),
        ("csv", b"video,text\na.mp4,What?\n", "no column 'question'"),
        ("csv", b"video,question,video\na.mp4,What?,b.mp4\n", "2 columns 'video': leave one"),
        ("csv", b'{"video": "a.mp4", "question": "What?"}\n', "line 1 is not CSV .* check its quotes"),
        ("csv", b'video,question\na.mp4,"What?\nb.mp4,Why?\n', "is not CSV .* check its quotes"),
        ("csv", b"video,question\na.mp4," + b"x" * 200_000, "line 2 has a value of more than 131,072 characters"),
        ("csv", b"video,question\na.mp4,\xff\xfe\n", "not UTF-8"),
        ("csv", b"video,question\n,What?\n", "no row that can be asked, read as CSV; line 2: the row names no video"),
        ("csv", "video,question\na.mp4,What?\n".encode("utf-16"), "is not text"),
        ("jsonl", b"video,question\na.mp4,What?\n", "read as JSON lines; line 1: the line is no JSON object"),
        ("jsonl", b'[\n{"video": "a.mp4",\n "question": "What?"}\n]\n', "read as JSON lines; line 1"),
        ("jsonl", b'\n{"clip": "a.mp4", "question": "What?"}\n', "line 2: the row names no video"),
        ("jsonl", b"\0\0\0\x20ftypisom", "is not text"),
    ],
)
def test_a_file_that_is_no_table(tmp_path: Path, form: str, content: bytes, words: str) -> None:
    path = tmp_path / "in"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        corpus(path, form=form).check()
    assert re.match(re.escape(str(path)), str(caught.value))


def test_a_table_with_one_valid_row_or_none_at_all(tmp_path: Path) -> None:
    path = tmp_path / "in"
    for content in ("", "\n\n", "no JSON\n" + json.dumps({"video": "a.mp4", "question": "What?"})):
        path.write_text(content)
        corpus(path, limit=1).check()


@pytest.mark.parametrize(
    ("name", "form"), [("a.csv", "csv"), ("a.CSV", "csv"), ("a.jsonl", "jsonl"), ("a", "jsonl"), ("csv", "jsonl")]
)
def test_formats_by_name(name: str, form: str) -> None:
    assert format_of(Path(name)) == form
