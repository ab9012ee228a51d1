"""What `tangovlm reproduce` wants of a harness, and which one it takes."""

import importlib.metadata
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tangovlm.errors import InputError

from ...harness import versions
from ..benchmarks import Benchmark
from ..planning import Plan, Step
from .answers import Results


@dataclass(frozen=True)
class Work:
    """A row that a harness is to run.

    Parameters
    ----------
    folder: what the harness may write into; what it finds there is its own of an earlier, broken off run.
    data: a folder of miniature data sets; None for the real ones.
    """

    plan: Plan
    step: Step
    folder: Path
    data: Path | None = None


@dataclass(frozen=True)
class Command:
    """A process to start: its words, and what its environment has beside this one's."""

    words: list[str]
    environment: dict[str, str] = field(default_factory=dict)


class Harness(Protocol):
    """An evaluation harness of the field.

    Attributes
    ----------
    name: on the command line. distribution: the package that it comes in.
    """

    @property
    def name(self) -> str: ...

    @property
    def distribution(self) -> str: ...

    def command(self, work: Work) -> Command:
        """The process that runs the row over all benchmarks, and goes on where an earlier one was ended."""
        ...

    def collect(self, work: Work) -> Results:
        """Read what it wrote.

        Raises
        ------
        InputError: a file is missing or of another form.
        """
        ...

    def miniature(self, folder: Path, questions: int) -> None:
        """Write small data sets about clips of the synthetic world, so many questions each, for `Work.data`."""
        ...

    def missing(self, benchmarks: tuple[Benchmark, ...]) -> list[str]:
        """Data sets that are not there: a line each, with where they are looked for and how to get them."""
        ...


def harnesses() -> dict[str, Harness]:
    """All that are known, by name; the default first."""
    from .lmms_eval import LmmsEval
    from .vlmevalkit import VLMEvalKit

    known: tuple[Harness, ...] = (VLMEvalKit(), LmmsEval())
    return {each.name: each for each in known}


def version(harness: Harness) -> str | None:
    """Of the installed harness; None if it is missing."""
    try:
        return importlib.metadata.version(harness.distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def choose(name: str | None, *, timed: bool = False) -> tuple[Harness, str | None]:
    """A harness, and a note where it is not the one that would be taken.

    Parameters
    ----------
    name: as the user chose; None for VLMEvalKit, with which the paper measures accuracy.
    timed: whether times are wanted, which the paper takes with lmms-eval.

    Raises
    ------
    InputError: no such harness.
    """
    known = harnesses()
    if name is not None:
        if name not in known:
            raise InputError(f"--harness is {name!r}: choose {' or '.join(known)}")
        return known[name], None
    first, second = known.values()
    if timed:
        first, second = second, first
    if version(first) is None and version(second) is not None:
        return second, f"{first.name} is not installed: {second.name} is taken, whose prompts and answers differ"
    return first, None


def hub_folder(repository: str) -> Path:
    """Where the cache of the Hugging Face hub has a data set, if it has it."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub")).expanduser()
    return cache / f"datasets--{repository.replace('/', '--')}"


def check_installed(harness: Harness) -> None:
    """Raise `InputError` if a harness is missing, or of a release that is not tested; says how to get it."""
    versions.check(harness.distribution)
