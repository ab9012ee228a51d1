"""The interface between `tangovlm reproduce` and an evaluation harness."""

import importlib.metadata
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ..benchmarks import Benchmark
from ..planning import Plan, Step
from .answers import Results


@dataclass(frozen=True)
class RowJob:
    """A row that a harness runs.

    Parameters
    ----------
    plan, step: the plan and its row.
    folder: where the harness writes; it may contain the files of an interrupted run.
    data: folder of miniature data sets; None for the real ones.
    """

    plan: Plan
    step: Step
    folder: Path
    data: Path | None = None


@dataclass(frozen=True)
class Command:
    """A process to start.

    Parameters
    ----------
    words: the command line.
    environment: variables that are added to the environment of this process.
    """

    words: list[str]
    environment: dict[str, str] = field(default_factory=dict)


class Harness(Protocol):
    """An evaluation harness.

    Attributes
    ----------
    name: on the command line.
    distribution: name of its Python package.
    """

    @property
    def name(self) -> str: ...

    @property
    def distribution(self) -> str: ...

    def command(self, job: RowJob) -> Command:
        """The process that runs a row over all benchmarks, and continues an interrupted run."""
        ...

    def collect(self, job: RowJob) -> Results:
        """Read the results of a finished row.

        Raises
        ------
        InputError: a file is missing or has another format.
        """
        ...

    def miniature(self, folder: Path, questions: int) -> None:
        """Write small data sets about clips of the synthetic world, for `RowJob.data`.

        Parameters
        ----------
        questions: per data set.
        """
        ...

    def missing(self, benchmarks: tuple[Benchmark, ...]) -> list[str]:
        """Missing data sets: one line each, with the expected location and how to download it."""
        ...


def version(harness: Harness) -> str | None:
    """The installed version of a harness; None if it is not installed."""
    try:
        return importlib.metadata.version(harness.distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def hub_folder(repository: str) -> Path:
    """The folder of a data set in the cache of the Hugging Face hub, which may not exist."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub")).expanduser()
    return cache / f"datasets--{repository.replace('/', '--')}"
