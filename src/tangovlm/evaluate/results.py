"""Files of results: JSON lines, appended one clip at a time, that remain valid if the process is killed.

A line is an object or a list. Objects are a header (benchmark, model, machine, versions), which is repeated whenever
one of these changes, or a run with its number in this file. A list is one answer, see `ScoredAnswer`. An incomplete
last line is dropped; any other line that does not have this form is reported as damage, and the file is not changed.
"""

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from tangovlm.errors import InputError
from tangovlm.pipeline.load import VideoLLM, embedded_folder
from tangovlm.report.provenance import machine

from .coverage import TokenCoverage
from .json_lines import JsonLinesWriter
from .runs import Run, spec_key
from .tangoworld import NAME, OFFICIAL, Benchmark, benchmark, fingerprint

FIXED = {
    "benchmark": "benchmark",
    "version": "version of the benchmark",
    "questions": "set of questions",
    "weights": "model",
    "dtype": "number format",
}
"""Entries of the header that must be equal for all answers of a file, and what each identifies."""
_TYPES: dict[str, tuple[type, ...]] = {
    "benchmark": (str,),
    "version": (int,),
    "questions": (str,),
    "model": (str,),
    "weights": (str,),
    "dtype": (str,),
    "device": (str,),
    "machine": (dict,),
    "threads": (int,),
    "versions": (dict,),
}
_MACHINE_TYPES: dict[str, tuple[type, ...]] = {"cpu": (str,), "cores": (int, type(None))}
_HEADER_START = b'{"benchmark"'
_MAX_TOKENS = 2**31


class ScoredAnswer(NamedTuple):
    """The answer to one question under one run."""

    run: int
    number: int
    exact: int
    """1 if the generated answer is correct, else 0."""
    chosen: int
    """1 if the correct choice is the most likely one, else 0."""
    tokens: int
    """Visual tokens that entered the language model."""
    answer: str
    coverage: list[float] | None
    """Values of `TokenCoverage`; None for a method inside the language model."""


@dataclass
class Content:
    """The content of a file of results.

    Parameters
    ----------
    headers: in the order of the file.
    runs: `Run.key` to the number of the run.
    answers: (run, question) to the answer.
    size: bytes up to the end of the last whole line.
    """

    headers: list[dict[str, Any]] = field(default_factory=list)
    runs: dict[str, int] = field(default_factory=dict)
    answers: dict[tuple[int, int], ScoredAnswer] = field(default_factory=dict)
    size: int = 0


def header(llm: VideoLLM, of: Benchmark = OFFICIAL) -> dict[str, Any]:
    """The header of a file of results of a model on this machine; it has a seed if the questions are not official."""
    return {
        "benchmark": NAME,
        "version": of.version,
        **({} if of.official else {"seed": of.seed}),
        "questions": fingerprint(of),
        "model": llm.name,
        "weights": _weights_digest(llm),
        "dtype": str(llm.model.dtype).removeprefix("torch."),
        **machine(llm.family.device),
    }


def benchmark_of(headers: Sequence[Mapping[str, Any]]) -> Benchmark:
    """The benchmark that the headers of a file name; the official version 1 for none.

    Raises
    ------
    InputError: a version that this installation does not have.
    """
    return benchmark(headers[-1]["version"], headers[-1].get("seed")) if headers else OFFICIAL


def _weights_digest(llm: VideoLLM) -> str:
    """SHA-256 of the checkpoint's files if they are in a local folder, else of the checkpoint's name."""
    folder = embedded_folder(llm.name) or Path(llm.name).expanduser()
    digest = hashlib.sha256(b"" if folder.is_dir() else llm.name.encode())
    for file in sorted(folder.glob("*.safetensors")) if folder.is_dir() else ():
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def read(path: Path, expected: Mapping[str, Any] | None = None, alternative: str = "another --output") -> Content:
    """Read a file of results, plain or compressed as ``.gz``; a missing file is empty.

    Parameters
    ----------
    expected: a header whose entries in `FIXED` the file must have; None accepts any file.
    alternative: what to choose if this file cannot be used.

    Raises
    ------
    InputError: damage, or results of another benchmark or model; the message names the file and the line.
    """
    content = Content()
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except FileNotFoundError:
        return content
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({error}): fix it or choose {alternative}") from error
    content.size = data.rfind(b"\n") + 1
    for number, line in enumerate(data[: content.size].splitlines(), start=1):
        try:
            _parse(content, json.loads(line), expected)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            reason = str(error) if isinstance(error, _DamageError) else "is damaged"
            raise InputError(f"{path} line {number} {reason}: fix it or choose {alternative}") from error
    tail = data[content.size :]
    if not content.headers and not (tail.startswith(_HEADER_START) or _HEADER_START.startswith(tail)):
        raise InputError(f"{path} line 1 is no header of tangovlm eval: choose {alternative}")
    return content


class ResultsFile:
    """A file of results that is open for appending; use it as a context manager.

    Raises
    ------
    InputError: see `read`; the file cannot be written, or another process writes to it.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self._header = dict(header)
        self._file = JsonLinesWriter(path, "another --output")
        try:
            self.content = read(path, header)
            self._file.truncate(self.content.size)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def number(self, run: Run, header: Mapping[str, Any] | None = None) -> int:
        """The number of a run in this file; a new run is appended to it.

        Parameters
        ----------
        header: that of the run's answers; None for this machine's.
        """
        if run.key not in self.content.runs:
            self.content.runs[run.key] = len(self.content.runs)
            self._write([{"run": self.content.runs[run.key], "spec": run.spec}], header)
        return self.content.runs[run.key]

    def add(self, answers: Sequence[ScoredAnswer], header: Mapping[str, Any] | None = None) -> None:
        """Append answers in one write; see `number` for `header`."""
        self._write([list(answer) for answer in answers], header)
        self.content.answers |= {(answer.run, answer.number): answer for answer in answers}

    def take(self, path: Path, runs: Iterable[Run]) -> None:
        """Append the answers of another file to these runs, except those that are there already.

        The headers of the other file are appended too, so that the machines of its answers remain known.

        Raises
        ------
        InputError: see `read`; there is no such file.
        """
        other = read(path, self._header, "another --reuse")
        if not other.headers:
            raise InputError(f"{path} has no results: choose another --reuse")
        chosen = {other.runs[run.key]: run for run in runs if run.key in other.runs}
        missing: dict[int, list[ScoredAnswer]] = {}
        for (source, number), answer in other.answers.items():
            if source in chosen and (self.content.runs.get(chosen[source].key), number) not in self.content.answers:
                missing.setdefault(source, []).append(answer)
        if missing:
            for header in other.headers:
                self._write([], header)
        for source, answers in missing.items():
            number = self.number(chosen[source], other.headers[-1])
            self.add([answer._replace(run=number) for answer in answers], other.headers[-1])

    def _write(self, lines: Iterable[Any], header: Mapping[str, Any] | None = None) -> None:
        """Append lines, and before them the header if it is not the last one in the file."""
        lines, header = list(lines), dict(header or self._header)
        if header not in self.content.headers[-1:]:
            self.content.headers.append(header)
            lines.insert(0, header)
        self._file.write(lines)


class _DamageError(ValueError):
    """Damage that is described by its message."""


def _parse(content: Content, line: Any, expected: Mapping[str, Any] | None) -> None:
    """Add one line to the content."""
    if isinstance(line, dict) and "benchmark" in line:
        for name, words in FIXED.items():
            if expected is not None and line[name] != expected[name]:
                raise _DamageError(f"is of another {words}")
        if not (_has(line, _TYPES) and _has(line["machine"], _MACHINE_TYPES)):
            raise _DamageError("is no complete header")
        content.headers.append(line)
        return
    if not content.headers:
        raise _DamageError("is no header of tangovlm eval")
    if isinstance(line, dict):
        if not isinstance(line["spec"], dict):
            raise _DamageError("is no run")
        if line["run"] != len(content.runs) or spec_key(line["spec"]) in content.runs:
            raise _DamageError("numbers a run wrongly")
        content.runs[spec_key(line["spec"])] = line["run"]
        return
    answer = ScoredAnswer(*line)
    if not _is_answer(answer):
        raise _DamageError("is no answer")
    if not 0 <= answer.run < len(content.runs) or not 0 <= answer.number < benchmark_of(content.headers).size:
        raise _DamageError("answers an unknown question or run")
    if (answer.run, answer.number) in content.answers:
        raise _DamageError("repeats an answer")
    content.answers[answer.run, answer.number] = answer


def _has(entries: Mapping[str, Any], types: Mapping[str, tuple[type, ...]]) -> bool:
    """Whether all entries are present and have their types; a bool does not count as an int."""
    return all(name in entries and type(entries[name]) in allowed for name, allowed in types.items())


def _is_answer(answer: ScoredAnswer) -> bool:
    integers = all(type(value) is int for value in answer[:5]) and 0 <= answer.tokens < _MAX_TOKENS
    return (
        integers
        and isinstance(answer.answer, str)
        and _is_coverage(answer.coverage)
        and {answer.exact, answer.chosen} <= {0, 1}
    )


def _is_coverage(value: Any) -> bool:
    """Whether this is a list of the values of `TokenCoverage`, or None."""
    if value is None:
        return True
    return (
        isinstance(value, list)
        and len(value) == len(TokenCoverage._fields)
        and all(type(share) in (int, float) and 0 <= share <= 1 for share in value)
    )
