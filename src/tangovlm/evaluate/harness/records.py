"""Records of answered questions, from which an interrupted run continues.

A folder has one file for each process of a run. A file has a header (settings, machine, versions), which is repeated
whenever it changes, and one JSON line per question, written as soon as the question is answered. An incomplete last
line is dropped; any other line that does not have this form is refused as damage.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tangovlm.errors import InputError
from tangovlm.video import Frames

from ..json_lines import JsonLinesWriter
from .requests import Completion, Media, Request
from .settings import Settings

FORMAT = 1
_MACHINE_SETTINGS = frozenset({"device", "device_map", "batch_size"})
"""Settings that may differ between the runs of a folder, as they change answers by rounding only."""


@dataclass(frozen=True)
class Record:
    """An answered question.

    Parameters
    ----------
    task: task of the harness.
    doc: identifier of the question within the task.
    key: digest of the whole request, see `request_key`.
    completion: the answer.
    """

    task: str
    doc: str
    key: str
    completion: Completion


@dataclass
class Content:
    """The content of a folder of records.

    Parameters
    ----------
    headers: in the order of the lines, file by file.
    records: by `Record.key`.
    """

    headers: list[dict[str, Any]] = field(default_factory=list)
    records: dict[str, Record] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """`Settings.as_dict` of the run; empty without a header."""
        return dict(self.headers[-1]["settings"]) if self.headers else {}


def read(folder: Path, settings: Settings | None = None) -> Content:
    """Read a folder of records, to which other processes may be writing; a missing folder is empty.

    Parameters
    ----------
    settings: the required settings; None accepts any settings that are equal in all files.

    Raises
    ------
    InputError: damage, or records of other settings; the message names the file and the line.
    """
    content = Content()
    for path in sorted(folder.glob("*.jsonl")):
        _read_file(path, content, settings)
    return content


class Records:
    """A folder of records that is open for appending; use it as a context manager.

    Parameters
    ----------
    rank: number of the process; each process has a file of its own.
    about: further entries of the header, such as `provenance.machine`.

    Attributes
    ----------
    known: by `Record.key`, the records of all processes when this one started, and those that it has added since.

    Raises
    ------
    InputError: see `read`; the file cannot be written, or another process writes to it.

    Example
    -------
    >>> with Records(Path("runs/tango"), Settings("tangovlm-tiny")) as records:  # doctest: +SKIP
    ...     records.add(Record("mvbench", "17", request_key("mvbench", "17", request), completion))
    """

    def __init__(self, folder: Path, settings: Settings, rank: int = 0, about: Mapping[str, Any] | None = None) -> None:
        self._header = {"format": FORMAT, "settings": settings.as_dict(), **(about or {})}
        self._file = JsonLinesWriter(folder / f"records-{rank}.jsonl", "another folder of records")
        try:
            own = Content()
            self._file.truncate(_read_file(self._file.path, own, settings))
            self.known = read(folder, settings).records
        except BaseException:
            self._file.close()
            raise
        self._has_header = own.headers[-1:] == [self._header]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, record: Record) -> None:
        """Append a record, unless its key is known.

        Raises
        ------
        InputError: the disk is full, or another process writes to the file.
        """
        if record.key in self.known:
            return
        line = {"task": record.task, "doc": record.doc, "key": record.key, **asdict(record.completion)}
        self._file.write([line] if self._has_header else [self._header, line])
        self._has_header = True
        self.known[record.key] = record


def request_key(task: str, doc: str | int, request: Request) -> str:
    """Digest of a request: task, document, conversation, videos (path and size, or pixels) and generation options.

    Examples
    --------
    >>> request_key("mvbench", 1, Request("Why?")) == request_key("mvbench", 2, Request("Why?"))
    False
    """
    videos = [_video_identity(video) for video in request.videos]
    turns = [{**turn, "content": _without_videos(turn["content"])} for turn in request.turns]
    content = [task, str(doc), turns, videos, asdict(request.options)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def _without_videos(content: Any) -> Any:
    if isinstance(content, str):
        return content
    return [{"type": "video"} if part.get("type") == "video" else part for part in content]


def _video_identity(video: Media) -> list[Any]:
    if isinstance(video, Frames):
        pixels = video.pixels.contiguous().numpy()
        return [hashlib.sha256(pixels.tobytes()).hexdigest(), list(pixels.shape), video.timestamps_s.tolist()]
    path = Path(video)
    return [str(video), path.stat().st_size if path.is_file() else None]


class _DamageError(ValueError):
    """Damage that is described by its message."""


def _read_file(path: Path, content: Content, settings: Settings | None) -> int:
    """Add the lines of a file to the content; returns the number of bytes up to the end of the last whole line."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): choose another folder of records") from error
    size = data.rfind(b"\n") + 1
    has_header = False
    for number, line in enumerate(data[:size].splitlines(), start=1):
        try:
            has_header = _parse(content, json.loads(line), has_header, settings)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            reason = str(error) if isinstance(error, _DamageError) else "is damaged"
            raise InputError(f"{path} line {number} {reason}: choose another folder of records") from error
    return size


def _parse(content: Content, line: Any, has_header: bool, settings: Settings | None) -> bool:
    """Add one line to the content; returns whether the file has a header so far."""
    if not isinstance(line, dict):
        raise _DamageError("is no record")
    if "format" in line:
        if line["format"] != FORMAT:
            raise _DamageError(f"is of format {line['format']}, and this version reads {FORMAT}")
        required = content.settings if settings is None else json.loads(json.dumps(settings.as_dict()))
        for name in _differing(required, line["settings"]):
            raise _DamageError(f"has other settings: {name} was {line['settings'].get(name)!r}")
        content.headers.append(line)
        return True
    if not has_header:
        raise _DamageError("is no header of records")
    names = {each.name for each in fields(Completion)}
    values = {name: value for name, value in line.items() if name in names}
    if values.keys() != names or not all(isinstance(line[name], str) for name in ("task", "doc", "key", "text")):
        raise _DamageError("is no complete record")
    for name in ("notes", "tokens_per_layer"):
        values[name] = tuple(values[name])
    content.records.setdefault(line["key"], Record(line["task"], line["doc"], line["key"], Completion(**values)))
    return True


def _differing(required: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    """Names of the settings that differ, except those of the machine; nothing if no settings are required."""
    for name in sorted(required.keys() | found.keys()) if required else ():
        if name not in _MACHINE_SETTINGS and required.get(name) != found.get(name):
            yield name
