"""A table: runs to compare, and what they are compared with."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, Self

from tangovlm.errors import InputError
from tangovlm.methods.build import plan

from ..runs import Run
from .comparison import AllTokens, Comparison, Defaults

COMPARISONS: tuple[Comparison, ...] = (AllTokens(), Defaults("tango"))
"""What most tables compare with."""


@dataclass(frozen=True)
class Table:
    """Runs to compare.

    Parameters
    ----------
    name: of the file.
    title: for the reader.
    runs: in order, the unpruned model first.
    lengths: of the clips, in moments; None for all.
    comparisons: the columns of differences.
    by_length: whether the figures are shown for each length of clips too.
    axis: horizontal axis of the picture.
    unreachable: runs that the model's layers cannot reach, with the reason; see `within`.
    """

    name: str
    title: str
    runs: tuple[Run, ...]
    lengths: tuple[int, ...] | None = None
    comparisons: tuple[Comparison, ...] = COMPARISONS
    by_length: bool = False
    axis: Literal["tokens", "frames"] = "tokens"

    unreachable: tuple[tuple[Run, str], ...] = ()

    def within(self, layers: int) -> Self:
        """Move the runs that a language model of so many layers cannot reach to `unreachable`."""
        reached, unreachable = [], list(self.unreachable)
        for each in self.runs:
            try:
                plan(each.pruner, layers)
            except InputError as error:
                unreachable.append((each, str(error)))
            else:
                reached.append(each)
        return replace(self, runs=tuple(reached), unreachable=tuple(unreachable))


def distinct(runs: Iterable[Run]) -> tuple[Run, ...]:
    """The first of all runs with the same key, since their answers are equal."""
    by_key: dict[str, Run] = {}
    for each in runs:
        by_key.setdefault(each.key, each)
    return tuple(by_key.values())
