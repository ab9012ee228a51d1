"""Frames that show nothing new are not encoded: what that costs, at several thresholds."""

from collections.abc import Iterator

from tangovlm.tower.changed import Changed

from ..runs import Run, build_run, unpruned_run
from .options import Options

_METHODS = ("milonga", "tango", "divprune")
_THRESHOLDS = (4, 8, 16, 32)


def encode(retention: float, options: Options) -> Iterator[Run]:
    """All tokens and some methods, with all frames encoded and with those that changed."""
    yield unpruned_run()
    for threshold in _THRESHOLDS:
        yield unpruned_run(label=_label("all tokens", threshold), encode=Changed(threshold))
    for name in options.methods or _METHODS:
        yield build_run(name, retention)
        for threshold in _THRESHOLDS:
            yield build_run(name, retention, label=_label(name, threshold), encode=Changed(threshold))


def _label(name: str, threshold: int) -> str:
    return f"{name}, changed by {threshold}"
