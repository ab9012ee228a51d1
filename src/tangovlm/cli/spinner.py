"""A spinner on stderr from the start of a command that imports torch and loads a model to its first output.

There is one per process: what `output` prints, and its progress bars, end it. It is written without rich, whose import
would delay it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from threading import Event, Thread
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_FRAMES, _PERIOD_S = "|/-\\", 0.1
_CLEAR_LINE = "\r\x1b[2K"

_spinner: _Spinner | None = None


class _Spinner(Thread):
    """Writes a line with the text again and again until `ended` is set."""

    def __init__(self, text: str) -> None:
        super().__init__(daemon=True)
        self.text, self.ended = text, Event()

    def run(self) -> None:
        turn = 0
        while not self.ended.is_set():
            _write(f"{_CLEAR_LINE}{_FRAMES[turn % len(_FRAMES)]} {self.text}")
            turn += 1
            self.ended.wait(_PERIOD_S)
        _write(_CLEAR_LINE)


def with_spinner(command: Callable[P, R]) -> Callable[P, R]:
    """The same command, which shows the spinner until it prints something."""

    @wraps(command)
    def wrapped(*arguments: P.args, **options: P.kwargs) -> R:
        start("starting")
        try:
            return command(*arguments, **options)
        finally:
            stop()

    return wrapped


def start(text: str) -> None:
    """Show the spinner with this text; nothing if stderr is not a terminal that can erase a line."""
    global _spinner
    stop()
    if sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in {"dumb", "unknown"}:
        _spinner = _Spinner(text)
        _spinner.start()


def update(text: str) -> None:
    """Change the text of the spinner; nothing if there is none."""
    if _spinner is not None:
        _spinner.text = text


def stop() -> None:
    """Remove the spinner; nothing if there is none."""
    global _spinner
    if _spinner is not None:
        spinner, _spinner = _spinner, None
        spinner.ended.set()
        # An interruption may have come before it was started, which raises.
        with suppress(RuntimeError):
            # A terminal that takes no more output must not keep the program from ending.
            spinner.join(1.0)


def _write(text: str) -> None:
    try:
        sys.__stderr__.write(text)  # type: ignore[union-attr]
        sys.__stderr__.flush()  # type: ignore[union-attr]
    except (OSError, ValueError):
        return
