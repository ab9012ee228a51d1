"""A corpus of questions, one row per clip and question: ``{"id": ..., "video": path, "question": ...}``."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

from ..budget import validate_retention
from ..errors import InputError, TangoError
from ..inputs.prompting import check_question
from ..video import FrameSampling
from ..video.input.times import parse_seconds
from .table import SAMPLING, misspelt, read_table

Id = int | str
_FORMAT_NAMES = {"jsonl": "JSON lines", "csv": "CSV"}


@dataclass(frozen=True)
class Task:
    """A valid row.

    Parameters
    ----------
    id: the id in the row, or else the number of its line.
    video: as in the row.
    retention: fraction of the visual tokens to keep; None for the default of a server.
    max_new_tokens: length limit of the answer.
    root: folder to which a relative path refers.
    own_retention: whether the retention is set in the row.
    sampling: which frames of the video to take.
    """

    id: Id
    video: str
    question: str
    retention: float | None
    max_new_tokens: int
    root: str = ""
    own_retention: bool = False
    sampling: FrameSampling = field(default_factory=FrameSampling)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Task":
        """The inverse of `dataclasses.asdict`."""
        return cls(**{**values, "sampling": FrameSampling(**values["sampling"])})

    @property
    def clip(self) -> tuple[str, FrameSampling]:
        """What tasks about the same frames have in common."""
        return self.path, self.sampling

    @property
    def path(self) -> str:
        """Path or URL of the video."""
        # An invalid path is refused with a message when it is opened.
        return str(Path(self.root, self.video)) if self.root and "://" not in self.video else self.video


@dataclass(frozen=True)
class InvalidRow:
    """A row that is not valid, and why.

    Parameters
    ----------
    id: the id in the row, or else "line" and the number of its line, which differs from the ids of other rows.
    reason: in one line.
    fields: the valid ones of its video and question.
    """

    id: Id
    reason: str
    fields: Mapping[str, str]


Row = Task | InvalidRow


@dataclass(frozen=True)
class Corpus:
    """The rows of a file.

    Parameters
    ----------
    path: of a table; other entries of a row are ignored.
    defaults: a task with the values of entries that a row does not have.
    limit: read only the first so many rows; None for all.
    form: one of `table.FORMATS`.
    """

    path: Path
    defaults: Task
    limit: int | None = None
    form: str = "jsonl"

    def rows(self, ignored: dict[str, str] | None = None) -> Iterator[tuple[int, Row]]:
        """Every row with the number of its line, read lazily; empty lines are skipped.

        Parameters
        ----------
        ignored: is filled with names of entries that are likely misspelt, see `table.misspelt`.

        Raises
        ------
        InputError: the file cannot be read, or is not of this format; see `table.read_table`.
        """
        return islice(self._rows(ignored), self.limit)

    def check(self) -> Task | None:
        """Check that the file is a table with at least one valid row, which is returned, or an empty one.

        Raises
        ------
        InputError: see `rows`; or none of the rows is valid, with the reason of the first.
        """
        first: tuple[int, InvalidRow] | None = None
        for number, row in self._rows():
            if isinstance(row, Task):
                return row
            first = first or (number, row)
        if first is not None:
            raise InputError(
                f"{self.path} has no row that can be asked, read as {_FORMAT_NAMES[self.form]}; line {first[0]}: "
                f"{first[1].reason}"
            )
        return None

    def _rows(self, ignored: dict[str, str] | None = None) -> Iterator[tuple[int, Row]]:
        for number, entries in read_table(self.path, self.form):
            if ignored is not None and not isinstance(entries, str):
                ignored.update(misspelt(entries))
            yield number, self._row(number, entries)

    def _row(self, number: int, entries: Mapping[str, Any] | str) -> Row:
        line_name = f"line {number}"
        if isinstance(entries, str):
            return InvalidRow(line_name, entries, {})
        name = entries.get("id")
        valid = {key: entries[key] for key in ("video", "question") if isinstance(entries.get(key), str)}
        if name is not None and (isinstance(name, bool) or not isinstance(name, Id)):
            return InvalidRow(line_name, f"the id is {name!r}: give text or a whole number, or leave it out", valid)
        try:
            return self._task(number if name is None else name, entries)
        except TangoError as error:
            return InvalidRow(line_name if name is None else name, str(error), valid)

    def _task(self, name: Id, entries: Mapping[str, Any]) -> Task:
        """
        Raises
        ------
        InputError: a missing entry, or one with an invalid type or value.
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
        if own := {name: entries[name] for name in SAMPLING if entries.get(name) is not None}:
            for name in ("start_s", "end_s"):
                if isinstance(own.get(name), str):
                    own[name] = parse_seconds(own[name], name)
            task = replace(task, sampling=task.sampling.overridden(**own))
        return task


def digest(value: Any) -> int:
    """A 64-bit hash of a JSON value, small enough to keep millions in memory."""
    return int.from_bytes(blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=8).digest())
