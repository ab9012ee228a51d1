"""What a table is built from, besides a retention."""

from dataclasses import dataclass

from ..tangoworld import OFFICIAL, Benchmark


@dataclass(frozen=True)
class Options:
    """Choices of the user, and of the benchmark.

    Parameters
    ----------
    methods: replace those of the table; empty for the table's own.
    benchmark: has the lengths of the clips.
    """

    methods: tuple[str, ...] = ()
    benchmark: Benchmark = OFFICIAL
