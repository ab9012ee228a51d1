"""Rows of a corpus."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tangovlm.batch.corpus import InvalidRow, Task
from tangovlm.video import FrameSampling
from tests.support.batch import corpus, parsed, questions, written


def test_a_row_says_what_it_wants_otherwise(tmp_path: Path) -> None:
    row = {"id": 7, "video": "a.mp4", "question": "What?", "retention": 0.5, "max_new_tokens": 3, "truth": "a cat"}
    (task,) = parsed(written(tmp_path / "in", [row]))
    assert task == Task(7, "a.mp4", "What?", 0.5, 3, own_retention=True)


def test_what_a_row_leaves_out(tmp_path: Path) -> None:
    source = written(tmp_path / "in", ["", {"video": "a.mp4", "question": "What?"}, "  "])
    assert parsed(source, root="clips") == [Task(2, "a.mp4", "What?", 0.1, 64, "clips")]


@pytest.mark.parametrize(
    ("root", "video", "path"),
    [
        ("", "a.mp4", "a.mp4"),
        ("clips", "a.mp4", "clips/a.mp4"),
        ("clips", "/a.mp4", "/a.mp4"),
        ("clips", "http://a/b.mp4", "http://a/b.mp4"),
    ],
)
def test_relative_paths(root: str, video: str, path: str) -> None:
    assert Task(1, video, "What?", 0.1, 64, root).path == path


@pytest.mark.parametrize(
    ("row", "name", "words"),
    [
        ("{", "line 1", "no JSON object"),
        ("[1]", "line 1", "no JSON object"),
        ("[" * 100_000, "line 1", "no JSON object"),
        ({"id": 1.5, "video": "a", "question": "b"}, "line 1", "id is 1.5"),
        ({"id": True, "video": "a", "question": "b"}, "line 1", "id is True"),
        ({"video": "a"}, "line 1", "no question"),
        ({"id": "x", "question": "b"}, "x", "no video"),
        ({"id": "x", "video": 3, "question": "b"}, "x", "no video"),
        ({"id": "x", "video": "a"}, "x", "no question"),
        ({"id": "x", "video": "a", "question": " "}, "x", "empty"),
        ({"id": "x", "video": "a", "question": ["b"]}, "x", "not text"),
        ({"id": "x", "video": "a", "question": "b", "retention": 0}, "x", "retention"),
        ({"id": "x", "video": "a", "question": "b", "retention": "most"}, "x", "retention"),
        ({"id": "x", "video": "a", "question": "b", "max_new_tokens": 0}, "x", "max_new_tokens"),
        ({"id": "x", "video": "a", "question": "b", "max_new_tokens": True}, "x", "max_new_tokens"),
    ],
)
def test_a_row_that_cannot_be_asked(tmp_path: Path, row: Any, name: Any, words: str) -> None:
    (refused,) = parsed(written(tmp_path / "in", [row]))
    assert isinstance(refused, InvalidRow)
    assert refused.id == name
    assert words in refused.reason
    assert "\n" not in refused.reason


def test_a_row_says_which_frames_to_take(tmp_path: Path) -> None:
    asked = {"video": "a.mp4", "question": "What?"}
    rows = [
        asked,
        asked | {"frames": 4, "start_s": 2.5},
        asked | {"max_frames": 3, "end_s": "1:30"},
        asked | {"fps": 2, "stream": 1, "seek": "auto"},
    ]
    table = "video,question,frames,fps,max_frames,start_s,end_s,stream\na.mp4,What?,,0.5,7,0:10,20.5,0\n"
    source = tmp_path / "in.csv"
    source.write_text(table)
    tasks = parsed(written(tmp_path / "in", rows), sampling=FrameSampling(fps=1, max_frames=9, start_s=1))
    tasks += list(parsed(source, form="csv"))
    assert [task.sampling for task in tasks] == [
        FrameSampling(fps=1, max_frames=9, start_s=1),
        FrameSampling(4, start_s=2.5),
        FrameSampling(fps=1, max_frames=3, start_s=1, end_s=90),
        FrameSampling(fps=2, max_frames=9, start_s=1, stream=1, seek="auto"),
        FrameSampling(fps=0.5, max_frames=7, start_s=10, end_s=20.5, stream=0),
    ]
    assert [Task.from_dict(json.loads(json.dumps(asdict(task)))) for task in tasks] == tasks


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"fps": 0}, "fps=0"),
        ({"fps": "often"}, "fps='often'"),
        ({"fps": 1, "frames": 2}, "frames and fps are both given"),
        ({"max_frames": 2}, "max_frames is given without fps"),
        ({"start_s": 5, "end_s": 4}, "the end (4 s) is not after the start (5 s)"),
        ({"start_s": "later"}, "start_s is 'later'"),
        ({"frames": "many"}, "frames='many'"),
        ({"seek": "fast"}, "seek='fast'"),
    ],
)
def test_frames_that_a_row_cannot_take(tmp_path: Path, entries: dict[str, Any], words: str) -> None:
    (refused,) = parsed(written(tmp_path / "in", [{"id": "x", "video": "a", "question": "b"} | entries]))
    assert isinstance(refused, InvalidRow)
    assert words in refused.reason


def test_rows_are_read_as_they_are_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path / "in", questions(3))
    rows = corpus(path).rows()
    next(rows)
    with path.open("a") as file:
        file.write(json.dumps({"id": "late", "video": "a", "question": "b"}) + "\n")
    assert [row.id for _, row in rows] == ["row 1", "row 2", "late"]
