"""Methods that read the question, beside those that do not."""

from collections.abc import Iterator

from ..runs import Run, build_run
from .options import Options

_LABELS = {
    "milonga": "milonga",
    "tango": "tango",
    "divprune": "divprune",
    "flexselect": "flexselect, from its layer on",
}
"""The best methods that select without the question, and those that read it and reach any retention."""


def question(retention: float, options: Options) -> Iterator[Run]:
    """Methods that select with and without the question; other methods inside the model are in the table `pairs`."""
    for name in options.methods or _LABELS:
        yield build_run(name, retention, label=_LABELS.get(name, name))
