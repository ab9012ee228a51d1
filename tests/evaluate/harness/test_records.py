"""Records of a harness: they grow by whole lines, survive a kill, and are not mixed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tangovlm.errors import InputError
from tangovlm.evaluate.harness.records import Record, Records, read, request_key
from tangovlm.evaluate.harness.requests import Completion, GenerationOptions, Request
from tangovlm.evaluate.harness.settings import Settings
from tangovlm.video import Frames

SETTINGS = Settings("tangovlm-tiny")
ANSWERED = Completion("red", 1024, 102, 1032, 2, {"decode": 1.5}, 16, True, 1, 10**9, (102, 51), ("a note",))


def record(doc: int) -> Record:
    return Record("mvbench", str(doc), request_key("mvbench", doc, Request("Why?")), ANSWERED)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with Records(tmp_path / "records", SETTINGS, about={"device": "cpu"}) as records:
        records.add(record(0))
        records.add(record(1))
        records.add(record(1))
    return tmp_path / "records"


def test_what_is_written_is_read(folder: Path) -> None:
    content = read(folder, SETTINGS)
    assert list(content.records.values()) == [record(0), record(1)]
    assert content.headers[0]["device"] == "cpu" and content.settings == SETTINGS.as_dict()
    assert len((folder / "records-0.jsonl").read_text().splitlines()) == 3
    assert read(folder / "nothing").records == {}


def test_each_process_has_a_file_and_knows_all(folder: Path) -> None:
    with Records(folder, SETTINGS, rank=1) as records:
        assert set(records.known) == {record(0).key, record(1).key}
        records.add(record(0))
        records.add(record(2))
    assert len((folder / "records-1.jsonl").read_text().splitlines()) == 2
    assert len(read(folder).records) == 3


@pytest.mark.parametrize("torn", ['{"task": "mvb', "{", "\x00\x00"])
def test_a_torn_line_is_dropped(folder: Path, torn: str) -> None:
    file = folder / "records-0.jsonl"
    whole = file.read_text()
    file.write_text(whole + torn)
    assert len(read(folder).records) == 2
    with Records(folder, SETTINGS) as records:
        records.add(record(2))
    assert file.read_text().startswith(whole) and len(read(folder).records) == 3


@pytest.mark.parametrize("line", ["{", "[1]", '{"task": "a"}', '{"format": 9, "settings": {}}', '{"format": 1}'])
def test_damage_elsewhere_is_refused_and_left_alone(folder: Path, line: str) -> None:
    file = folder / "records-0.jsonl"
    first, *rest = file.read_text().splitlines()
    damaged = "\n".join([first, line, *rest, ""])
    file.write_text(damaged)
    with pytest.raises(InputError, match=r"records-0.jsonl line 2") as caught:
        Records(folder, SETTINGS)
    assert "\n" not in str(caught.value) and file.read_text() == damaged


def test_answers_without_a_header_are_refused(folder: Path) -> None:
    file = folder / "records-0.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(InputError, match="no header"):
        read(folder)


@pytest.mark.parametrize("other", [{"retention": 0.2}, {"method": "topk"}, {"params": {"neighbors": 3}}])
def test_other_settings_are_refused_by_name(folder: Path, other: dict[str, Any]) -> None:
    (name,) = other
    settings = Settings(**{"pretrained": "tangovlm-tiny"} | other)
    with pytest.raises(InputError, match=f"other settings: {name}"):
        Records(folder, settings)
    with pytest.raises(InputError, match=f"other settings: {name}"), Records(folder, settings, rank=1):
        pass


def test_the_machine_may_change(folder: Path) -> None:
    with Records(folder, Settings("tangovlm-tiny", device="cpu", batch_size=4)) as records:
        assert len(records.known) == 2
        records.add(record(2))
    assert len(read(folder).headers) == 2


def test_two_writers_are_noticed(folder: Path) -> None:
    with Records(folder, SETTINGS) as one, Records(folder, SETTINGS) as other:
        one.add(record(2))
        with pytest.raises(InputError, match="another process"):
            other.add(record(3))


def test_keys_tell_questions_apart(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"abc")
    seconds = torch.arange(2, dtype=torch.float64)
    frames = [Frames(torch.full((2, 3, 4, 4), value, dtype=torch.uint8), seconds, 1.0, 2.0) for value in (1, 2)]
    asked = [
        ("a", 1, Request("Why?", [clip])),
        ("a", 2, Request("Why?", [clip])),
        ("b", 1, Request("Why?", [clip])),
        ("a", 1, Request("How?", [clip])),
        ("a", 1, Request("Why?", [clip], options=GenerationOptions(3))),
        ("a", 1, Request("Why?")),
        ("a", 1, Request("Why?", [frames[0]])),
        ("a", 1, Request("Why?", [frames[1]])),
    ]
    assert len({request_key(*each) for each in asked}) == len(asked)
    before = request_key(*asked[0])
    assert before == request_key("a", "1", Request("Why?", [str(clip)]))
    clip.write_bytes(b"abcd")
    assert before != request_key(*asked[0])
