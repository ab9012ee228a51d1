"""What a table is built from, besides a retention."""

from dataclasses import dataclass

from tangovlm.tiny.synthetic.world import LENGTHS


@dataclass(frozen=True)
class Options:
    """Choices of the user, and of the benchmark.

    Parameters
    ----------
    methods: replace those of the table; empty for the table's own.
    lengths: of the clips of the benchmark, in moments.
    """

    methods: tuple[str, ...] = ()
    lengths: tuple[int, ...] = LENGTHS
