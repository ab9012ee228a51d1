"""The file of answers among several processes, behind links, on full disks, and after failures."""

import errno
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NoReturn

import pytest

from tangovlm.batch import output as module
from tangovlm.batch.output import Output
from tangovlm.errors import InputError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="locks are those of POSIX")


class Writer:
    """Another process that has opened the file, and appends rows; a fork, because importing takes seconds."""

    def __init__(self, path: Path, forget_failed: bool, with_child: bool) -> None:
        orders, answers = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            os.close(orders[1])
            os.close(answers[0])
            _write(path, forget_failed, with_child, orders[0], answers[1])
        os.close(orders[0])
        os.close(answers[1])
        self._orders, self._answers = os.fdopen(orders[1], "w"), os.fdopen(answers[0])
        assert self._answers.readline() == "open\n"

    def add(self, name: str) -> None:
        self._orders.write(f"{name}\n")
        self._orders.flush()
        assert self._answers.readline() == "added\n"

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def wait(self) -> None:
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)

    def close(self) -> None:
        """Let the process close the file and end."""
        self._orders.close()
        self._answers.close()


def _write(path: Path, forget_failed: bool, with_child: bool, orders: int, answers: int) -> NoReturn:
    """The other process: opens the file, and adds a row for each line of `orders`."""
    status = 1
    try:
        with Output(path, forget_failed=forget_failed) as output, os.fdopen(orders) as lines:
            if not with_child or os.fork():
                os.write(answers, b"open\n")
            for line in lines:
                output.add({"id": line.strip(), "error": "by the writer"})
                os.write(answers, b"added\n")
        status = 0
    finally:
        os._exit(status)


@contextmanager
def writer(path: Path, *, forget_failed: bool = False, with_child: bool = False) -> Iterator[Writer]:
    """A `Writer`, whose processes are all ended; `with_child` it has a child process that inherits its open file."""
    process = Writer(path, forget_failed, with_child)
    try:
        yield process
    finally:
        process.close()
        process.wait()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def failed(name: str) -> str:
    return json.dumps({"id": name, "error": "x"}) + "\n"


def answered(name: str) -> str:
    asked = {"video": "a", "question": "b", "model": "c", "method": "d", "retention": 0.1, "max_new_tokens": 1}
    return json.dumps({"id": name, **asked, "settings": {}}) + "\n"


def names(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in path.read_text().splitlines()]


@pytest.mark.parametrize("first_forgets", [False, True])
@pytest.mark.parametrize("second_forgets", [False, True])
def test_one_process_at_a_time(tmp_path: Path, first_forgets: bool, second_forgets: bool) -> None:
    path = tmp_path / "out"
    path.write_text(answered("old") + failed("bad"))
    kept = ["old"] if first_forgets else ["old", "bad"]
    with writer(path, forget_failed=first_forgets) as other:
        other.add("1")
        with pytest.raises(InputError, match="another process writes it"):
            Output(path, forget_failed=second_forgets)
        other.add("2")
    assert names(path) == [*kept, "1", "2"]
    with Output(path) as output:
        output.add({"id": "3", "error": "x"})
    assert names(path) == [*kept, "1", "2", "3"]


def test_a_process_that_is_kept_away_leaves_a_new_file_to_the_other(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with writer(path) as other:
        with pytest.raises(InputError, match="another process"), Output(path):
            pass
        other.add("1")
    assert names(path) == ["1"]


def test_the_lock_ends_with_its_process_and_not_with_its_children(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with writer(path, with_child=True) as parent:
        parent.kill()
        with Output(path) as output:
            output.add({"id": "1", "error": "x"})
    assert names(path) == ["1"]


@pytest.mark.parametrize("removed", [False, True])
def test_a_file_that_was_replaced_before_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removed: bool
) -> None:
    path, lock = tmp_path / "out", module._lock

    def late(file: BinaryIO) -> bool:
        path.unlink()
        if not removed:
            path.write_text(failed("1"))
        return lock(file)

    monkeypatch.setattr(module, "_lock", late)
    with pytest.raises(InputError, match="another process"):
        Output(path)
    assert path.exists() != removed


def test_growth_by_others_is_noticed_without_locks_too(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with Output(path) as output:
        output.add({"id": "1", "error": "x"})
        with path.open("a") as file:
            file.write(failed("2"))
        with pytest.raises(InputError, match="another process"):
            output.add({"id": "3", "error": "x"})
    assert names(path) == ["1", "2"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    path, place = tmp_path / "out", tmp_path / "elsewhere" / "out"
    place.write_text(answered("old") + failed("bad"))
    path.symlink_to(place)
    with Output(path, forget_failed=True) as output:
        output.add({"id": "new", "error": "x"})
    assert path.is_symlink()
    assert names(place) == ["old", "new"]


def test_a_failure_leaves_no_empty_file(tmp_path: Path) -> None:
    path, old = tmp_path / "out", tmp_path / "old"
    old.touch()
    for place in (path, old):
        with pytest.raises(KeyError), Output(place):
            raise KeyError
    assert list(tmp_path.iterdir()) == [old]
    output = Output(path)
    output.add({"id": "1", "error": "x"})
    with pytest.raises(KeyError), output:
        raise KeyError
    assert names(path) == ["1"]


def test_a_disk_that_is_full_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(InputError, match="No space left.*make room"), Output(tmp_path / "out") as output:
        output.add({"id": "1", "error": "x"})
    with pytest.raises(KeyError), Output(tmp_path / "out"):
        raise KeyError
