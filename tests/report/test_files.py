"""Files are written whole or not at all."""

import os
from pathlib import Path

import pytest

from tangovlm.errors import InputError
from tangovlm.report import check_writable, whole_file, write_whole


def test_writes_and_replaces(tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    write_whole(target, b"one")
    write_whole(target, b"two")
    assert target.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["report.html"]


def test_permissions_are_those_of_an_ordinary_file(tmp_path: Path) -> None:
    plain, whole = tmp_path / "plain", tmp_path / "whole"
    plain.write_bytes(b"")
    write_whole(whole, b"")
    assert whole.stat().st_mode == plain.stat().st_mode
    whole.chmod(0o640)
    write_whole(whole, b"again")
    assert whole.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("broken", ["replace", "chmod"])
def test_failure_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    target = tmp_path / "report.html"
    target.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(InputError, match=r"cannot write .*report.html: No space left on device"):
        write_whole(target, b"new")
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["report.html"]


def test_interruption_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "report.html", b"new")
    assert os.listdir(tmp_path) == []


def test_a_writer_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail() -> None:
        with whole_file(tmp_path / "clip.mp4") as temporary:
            assert temporary.suffix == ".mp4"
            temporary.write_bytes(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert os.listdir(tmp_path) == []


def test_places_that_cannot_be_written_are_refused_early(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_bytes(b"")
    check_writable(blocker, "--report")
    check_writable(tmp_path / "new.html", "--report")
    for path, why in (
        (tmp_path, "a folder"),
        (tmp_path / "no" / "x.html", "no folder"),
        (Path(os.devnull), "ordinary"),
        (tmp_path / ("x" * 300), "too long"),
        (blocker / "x.html", "Not a directory"),
    ):
        with pytest.raises(InputError, match=why):
            check_writable(path, "--report")
