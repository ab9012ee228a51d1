"""Videos from file objects and pipes."""

import errno
import gzip
import io
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

from tangovlm.errors import VideoError
from tangovlm.video import decode, duration_s
from tangovlm.video.input import spool
from tests.support import clips


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clips.write(tmp_path_factory.mktemp("clip") / "clip.mp4", 20)


@pytest.fixture(autouse=True)
def nothing_remains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """No file in the folder of temporary files, also after errors."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert not list(folder.iterdir())


class Pipe(io.RawIOBase):
    """Bytes that come in small parts and cannot be read again."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        part, self.data = self.data[:7000], self.data[7000:]
        return part


@pytest.mark.parametrize("named", [False, True], ids=["unnamed copy", "named copy"])
def test_the_same_frames(clip: Path, tmp_path: Path, named: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if named:
        is_folder = os.path.isdir
        monkeypatch.setattr(spool.os.path, "isdir", lambda path: path != "/proc/self/fd" and is_folder(path))
    data = clip.read_bytes()
    later = io.BytesIO(b"head" + data)
    later.seek(4)
    packed = tmp_path / "clip.mp4.gz"
    packed.write_bytes(gzip.compress(data))
    wanted = decode(clip, 5, start_s=0.2)
    with clip.open("rb") as file, packed.open("rb") as compressed, clip.open("rb", buffering=0) as unbuffered:
        streams: list[BinaryIO] = [
            io.BytesIO(data), later, file, unbuffered, gzip.GzipFile(fileobj=compressed), Pipe(data),  # type: ignore[list-item]
        ]  # fmt: skip
        for stream in streams:
            frames = decode(stream, 5, start_s=0.2)
            assert torch.equal(frames.pixels, wanted.pixels)
            assert frames.notes == wanted.notes
    assert duration_s(path=io.BytesIO(data)) == duration_s(clip)


def test_an_open_file_is_not_copied(clip: Path, tmp_path: Path) -> None:
    with clip.open("rb") as file, spool.stored(file) as path:
        assert path == str(clip)
    with clip.open("rb") as file:
        file.read(1)
        with spool.stored(file) as path:
            assert Path(path).read_bytes() == clip.read_bytes()[1:]
    replaced = tmp_path / "replaced.mp4"
    replaced.write_bytes(b"old")
    with replaced.open("rb") as file:
        replaced.unlink()
        replaced.write_bytes(b"new")
        with spool.stored(file) as path:
            assert Path(path).read_bytes() == b"old"


@contextmanager
def piped(data: bytes) -> Iterator[BinaryIO]:
    """The reading end of a pipe that a thread fills."""
    reading, writing = os.pipe()

    def fill() -> None:
        with suppress(BrokenPipeError), open(writing, "wb") as end:
            end.write(data)

    thread = threading.Thread(target=fill)
    thread.start()
    try:
        with open(reading, "rb") as end:
            yield end
    finally:
        thread.join()


def test_a_pipe(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with piped(clip.read_bytes()) as end:
        assert torch.equal(decode(end, 3).pixels, decode(clip, 3).pixels)
        with pytest.raises(VideoError, match=r"^the BufferedReader: there is no data; .* ended early"):
            decode(end, 3)
    with piped(b"") as end:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(end))
        with pytest.raises(VideoError, match=r"^standard input: there is no data; .* ended early"):
            decode(sys.stdin.buffer, 3)


def test_a_pipe_that_ends_early(clip: Path) -> None:
    """Its name and its length are told, not those of the copy."""
    data = clip.read_bytes()
    with piped(data[:2000]) as end, pytest.raises(VideoError) as error:
        decode(end, 3)
    assert str(error.value).startswith("the BufferedReader (2,000 bytes): the file ends before its index does")
    half = clips.write(clip.with_name("half.mp4"), 50, muxer={"movflags": "faststart"}).read_bytes()
    with piped(half[: len(half) * 2 // 3]) as end:
        frames = decode(end, 3)
    assert frames.notes[0].startswith("the file is truncated: ")


def test_what_cannot_be_read(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with clip.open(encoding="latin-1") as text, pytest.raises(VideoError, match="clip.mp4: its data is str, not bytes"):
        decode(text, 3)
    closed = io.BytesIO(b"data")
    closed.close()
    with pytest.raises(VideoError, match="the BytesIO: cannot be read .I/O operation on closed file"):
        decode(closed, 3)
    with pytest.raises(VideoError, match=r"^the BytesIO \(7 bytes\): not a video"):
        decode(io.BytesIO(b"nothing"), 3)

    class Waiting(io.RawIOBase):
        def read(self, _size: int = -1) -> None:
            return None

    with pytest.raises(VideoError, match="the Waiting: there is no data yet"):
        decode(Waiting(), 3)
    monkeypatch.setattr(spool, "MAX_GIGABYTES", 2e-6)
    with pytest.raises(VideoError, match="the BytesIO: more than 2e-06 GB; save it to a file"):
        decode(io.BytesIO(clip.read_bytes()), 3)


def test_a_full_disk(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, _data: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def fileno(self) -> int:
            return 0

    monkeypatch.setattr(spool.tempfile, "TemporaryFile", Full)
    with pytest.raises(VideoError, match="cannot be stored in .* .No space left on device.; save it to a file"):
        decode(io.BytesIO(clip.read_bytes()), 3)


def test_an_interrupt_while_a_stream_is_read_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(Pipe):
        def read(self, size: int = -1) -> bytes:
            if not self.data:
                raise KeyboardInterrupt
            return super().read(size)

    is_folder = os.path.isdir
    monkeypatch.setattr(spool.os.path, "isdir", lambda path: path != "/proc/self/fd" and is_folder(path))
    with pytest.raises(KeyboardInterrupt):
        decode(Interrupted(b"x" * 20_000), 3)
