"""A corpus as JSON lines: ``{"id": ..., "video": path, "question": ...}``, one row a line."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

from ..budget import validate_retention
from ..errors import InputError, TangoError
from ..inputs.prompting import check_question

Id = int | str


@dataclass(frozen=True)
class Task:
    """A row that can be asked.

    Parameters
    ----------
    id: the row's own, or the number of its line.
    video: as the row names it.
    retention: fraction of the visual tokens to keep; None for what a server does by itself.
    max_new_tokens: the longest answer.
    root: folder that a relative path starts from.
    own_retention: whether the row itself names its retention.
    """

    id: Id
    video: str
    question: str
    retention: float | None
    max_new_tokens: int
    root: str = ""
    own_retention: bool = False

    @property
    def path(self) -> str:
        """Where the video is."""
        # What is no path is refused where it is opened, with the words for it.
        return str(Path(self.root, self.video)) if self.root and "://" not in self.video else self.video


@dataclass(frozen=True)
class Refused:
    """A row that cannot be asked, and why; `shown` is what of it can be repeated.

    Its id is the row's own, or text with the number of its line, which is no other row's.
    """

    id: Id
    reason: str
    shown: Mapping[str, str]


Row = Task | Refused


@dataclass(frozen=True)
class Corpus:
    """The rows of a file.

    Parameters
    ----------
    path: of JSON lines; further entries of a row are left alone.
    defaults: a task with what rows leave out.
    limit: how many rows from the first on; None for all.
    """

    path: Path
    defaults: Task
    limit: int | None = None

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Every row with the number of its line, read as it is asked for; empty lines are none.

        Raises
        ------
        InputError: the file cannot be read.
        """
        return islice(self._rows(), self.limit)

    def _rows(self) -> Iterator[tuple[int, Row]]:
        try:
            with self.path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        yield number, self._row(number, line)
        except OSError as error:
            raise InputError(f"{self.path} cannot be read ({error.strerror}): give a file of JSON lines") from error

    def _row(self, number: int, line: bytes) -> Row:
        try:
            entries = json.loads(line)
        except (ValueError, RecursionError):
            entries = None
        line_name = f"line {number}"
        if not isinstance(entries, dict):
            reason = f'{line_name} is no JSON object: give {{"id": ..., "video": ..., "question": ...}}'
            return Refused(line_name, reason, {})
        name = entries.get("id")
        shown = {key: entries[key] for key in ("video", "question") if isinstance(entries.get(key), str)}
        if name is not None and (isinstance(name, bool) or not isinstance(name, Id)):
            return Refused(line_name, f"the id is {name!r}: give text or a whole number, or leave it out", shown)
        try:
            return self._task(number if name is None else name, entries)
        except TangoError as error:
            return Refused(line_name if name is None else name, str(error), shown)

    def _task(self, name: Id, entries: Mapping[str, Any]) -> Task:
        """
        Raises
        ------
        InputError: an entry that is missing or of another type, or out of its range.
        """
        video, question = entries.get("video"), entries.get("question")
        if not isinstance(video, str) or not video:
            raise InputError("the row names no video: give the path of a file as text")
        if question is None:
            raise InputError("the row has no question: ask something about the video")
        check_question(question)
        task = replace(self.defaults, id=name, video=video, question=question)
        if (retention := entries.get("retention")) is not None:
            task = replace(task, retention=validate_retention(retention), own_retention=True)
        if (longest := entries.get("max_new_tokens")) is not None:
            if isinstance(longest, bool) or not isinstance(longest, int) or longest < 1:
                raise InputError(f"max_new_tokens is {longest!r}: it must be a whole number, at least 1")
            task = replace(task, max_new_tokens=longest)
        return task


def digest(value: Any) -> int:
    """64 bits for a value of JSON, so that millions of them can be remembered."""
    return int.from_bytes(blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=8).digest())
