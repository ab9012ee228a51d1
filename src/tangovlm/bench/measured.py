"""What every timed row says about how it came about."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measured:
    """The fields that the rows of all timed benchmarks share.

    Parameters
    ----------
    retention: fraction of the visual tokens that is kept.
    dtype: of the features.
    device, machine, threads, versions: see `tangovlm.report.provenance.machine`.
    kernel: the variant that pruning ran.
    tokens_before: visual tokens.
    warm_up, repeats: runs that are not counted, and runs that are.
    """

    retention: float
    dtype: str
    device: str
    machine: dict[str, Any]
    threads: int
    versions: dict[str, str]
    kernel: str
    tokens_before: int
    warm_up: int
    repeats: int
