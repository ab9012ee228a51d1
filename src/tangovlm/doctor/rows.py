"""One row of the doctor's table: what was looked at, what came out, and how long it took.

Modules of this package import what they look at inside of functions, so that a package that is missing or broken costs
a row and not the doctor.
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
    part: of the table.
    status: `OK`, `FAILED`, or `MISSING` for something that the library can do without.
    detail: one line.
    """

    part: str
    name: str
    status: str
    detail: str
    seconds: float


class NotInstalledError(Exception):
    """Something that the library can do without is not here; the message says what it would be for."""


@dataclass(frozen=True)
class Examination:
    """What makes a row: `work` returns the detail, or raises where something is wrong or missing."""

    part: str
    name: str
    work: Callable[[], str]

    def row(self) -> Row:
        """Run it; whatever it raises becomes a line, but for what ends the program."""
        start, status = perf_counter(), OK
        try:
            detail = self.work()
        except NotInstalledError as error:
            status, detail = MISSING, str(error)
        # Packages that find themselves broken have been seen to exit.
        except (Exception, SystemExit) as error:
            status, detail = FAILED, one_line(error)
        return Row(self.part, self.name, status, " ".join(detail.split()), perf_counter() - start)


def one_line(error: BaseException) -> str:
    """What an error says, with its kind."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
