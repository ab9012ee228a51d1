"""Methods that read the question, beside those that do not."""

from collections.abc import Iterator

from ..runs import Run, build_run
from .options import Options

_METHODS = ("milonga", "tango", "divprune", "flexselect")


def question(retention: float, options: Options) -> Iterator[Run]:
    """The best methods that select without the question, and those that read it and reach any retention."""
    for name in options.methods or _METHODS:
        yield build_run(name, retention)
