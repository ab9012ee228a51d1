"""A row of the table of `tangovlm doctor`: what was examined, the result, and the time.

The modules of this package import what they examine inside functions, so that a missing or broken package affects only
its own row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

OK, FAILED, MISSING = "OK", "FAILED", "not installed"


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Parameters
    ----------
    part: section of the table.
    status: `OK`, `FAILED`, or `MISSING` for something optional.
    detail: one line.
    """

    part: str
    name: str
    status: str
    detail: str
    seconds: float


class NotInstalledError(Exception):
    """Something optional is not installed; the message says what it is for."""


@dataclass(frozen=True)
class Examination:
    """The check behind a row: `work` returns the detail, or raises if something is wrong or missing."""

    part: str
    name: str
    work: Callable[[], str]

    def row(self) -> Row:
        """Run the check. Exceptions become rows, except for those that end the process."""
        start, status = perf_counter(), OK
        try:
            detail = self.work()
        except NotInstalledError as error:
            status, detail = MISSING, str(error)
        # Some broken packages raise SystemExit when they are imported.
        except (Exception, SystemExit) as error:
            status, detail = FAILED, one_line(error)
        return Row(self.part, self.name, status, " ".join(detail.split()), perf_counter() - start)


def one_line(error: BaseException) -> str:
    """The type and the message of an error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
