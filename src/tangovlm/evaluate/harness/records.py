"""What became of each question, one JSON line as it is answered: a run that is killed goes on from there.

A folder holds one file for each process of a run. A file has a header (settings, machine, versions), again whenever it
changes, and one line a question. A last line without its end was torn by a kill and is dropped; anything else that
does not fit is damage, which is refused.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tangovlm.errors import InputError
from tangovlm.evaluate.appended import AppendedFile
from tangovlm.video import Frames

from .requests import Answered, Media, Request
from .settings import Settings

FORMAT = 1
_OF_THE_MACHINE = frozenset({"device", "device_map", "batch_size"})
"""Settings that may change from one call to the next, as they change no answer but by rounding."""


@dataclass(frozen=True)
class Record:
    """A question that was answered.

    Parameters
    ----------
    task: of the harness.
    doc: what the harness calls the question within the task.
    key: digest of all that was asked, see `key_of`.
    answered: see `Answered`.
    """

    task: str
    doc: str
    key: str
    answered: Answered


@dataclass
class Content:
    """What a folder of records holds.

    Parameters
    ----------
    headers: in the order in which they were written, file by file.
    records: by `Record.key`.
    """

    headers: list[dict[str, Any]] = field(default_factory=list)
    records: dict[str, Record] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """`Settings.as_dict` of the run; empty where there is none."""
        return dict(self.headers[-1]["settings"]) if self.headers else {}


def read(folder: Path, settings: Settings | None = None) -> Content:
    """Read a folder of records, in which other processes may be writing; one that is not there holds nothing.

    Parameters
    ----------
    settings: what the records must have been made with; None for any, as long as it is one and the same.

    Raises
    ------
    InputError: damage, or records of other settings; names the file and the line.
    """
    content = Content()
    for path in sorted(folder.glob("*.jsonl")):
        _read_file(path, content, settings)
    return content


class Records:
    """A folder of records to which one process adds; use as a context.

    Parameters
    ----------
    rank: number of the process; each has a file of its own.
    about: what else the header says, such as `provenance.machine`.

    Attributes
    ----------
    known: what all processes had answered when this one began, by `Record.key`, and what it has answered since.

    Raises
    ------
    InputError: see `read`; or the file cannot be written, or another process writes to it too.

    Example
    -------
    >>> with Records(Path("runs/tango"), Settings("tangovlm-tiny")) as records:  # doctest: +SKIP
    ...     records.add(Record("mvbench", "17", key_of("mvbench", "17", request), answered))
    """

    def __init__(self, folder: Path, settings: Settings, rank: int = 0, about: Mapping[str, Any] | None = None) -> None:
        self._header = {"format": FORMAT, "settings": settings.as_dict(), **(about or {})}
        self._file = AppendedFile(folder / f"records-{rank}.jsonl", "another folder of records")
        try:
            own = Content()
            self._file.begin(_read_file(self._file.path, own, settings))
            self.known = read(folder, settings).records
        except BaseException:
            self._file.close()
            raise
        self._written = own.headers[-1:] == [self._header]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, record: Record) -> None:
        """Write a record down; one whose key is known is not written again.

        Raises
        ------
        InputError: there is no room, or another process writes to the file too.
        """
        if record.key in self.known:
            return
        line = {"task": record.task, "doc": record.doc, "key": record.key, **asdict(record.answered)}
        self._file.write([line] if self._written else [self._header, line])
        self._written = True
        self.known[record.key] = record


def key_of(task: str, doc: str | int, request: Request) -> str:
    """Digest of a question: task, document, conversation, videos (path and size, or pixels), and limits.

    Examples
    --------
    >>> key_of("mvbench", 1, Request("Why?")) == key_of("mvbench", 2, Request("Why?"))
    False
    """
    videos = [_video(video) for video in request.videos]
    turns = [{**turn, "content": _without_videos(turn["content"])} for turn in request.turns]
    asked = [task, str(doc), turns, videos, asdict(request.limits)]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]


def _without_videos(content: Any) -> Any:
    if isinstance(content, str):
        return content
    return [{"type": "video"} if part.get("type") == "video" else part for part in content]


def _video(video: Media) -> list[Any]:
    if isinstance(video, Frames):
        pixels = video.pixels.contiguous().numpy()
        return [hashlib.sha256(pixels.tobytes()).hexdigest(), list(pixels.shape), video.timestamps_s.tolist()]
    path = Path(video)
    return [str(video), path.stat().st_size if path.is_file() else None]


class _DamageError(ValueError):
    """Damage that has a name."""


def _read_file(path: Path, content: Content, settings: Settings | None) -> int:
    """Add what a file holds to the content; returns its bytes up to the end of the last whole line."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): choose another folder of records") from error
    size = data.rfind(b"\n") + 1
    begun = False
    for number, line in enumerate(data[:size].splitlines(), start=1):
        try:
            begun = _take(content, json.loads(line), begun, settings)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            reason = str(error) if isinstance(error, _DamageError) else "is damaged"
            raise InputError(f"{path} line {number} {reason}: choose another folder of records") from error
    return size


def _take(content: Content, line: Any, begun: bool, settings: Settings | None) -> bool:
    """Put one line into the content; whether there has been a header."""
    if not isinstance(line, dict):
        raise _DamageError("is no record")
    if "format" in line:
        if line["format"] != FORMAT:
            raise _DamageError(f"is of format {line['format']}, and this version reads {FORMAT}")
        wanted = content.settings if settings is None else json.loads(json.dumps(settings.as_dict()))
        for name in _differing(wanted, line["settings"]):
            raise _DamageError(f"has other settings: {name} was {line['settings'].get(name)!r}")
        content.headers.append(line)
        return True
    if not begun:
        raise _DamageError("is no header of records")
    names = {each.name for each in fields(Answered)}
    answered = {name: value for name, value in line.items() if name in names}
    if answered.keys() != names or not all(isinstance(line[name], str) for name in ("task", "doc", "key", "text")):
        raise _DamageError("is no whole record")
    for name in ("notes", "tokens_per_layer"):
        answered[name] = tuple(answered[name])
    content.records.setdefault(line["key"], Record(line["task"], line["doc"], line["key"], Answered(**answered)))
    return True


def _differing(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    """Names of settings that are not alike, those of the machine left out; nothing where none are wanted."""
    for name in sorted(wanted.keys() | found.keys()) if wanted else ():
        if name not in _OF_THE_MACHINE and wanted.get(name) != found.get(name):
            yield name
