"""Progress of commands that answer many rows, and the reasons of those that failed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from .output import log, one_line

_LINE_SECONDS = 30.0
_REASON_LENGTH = 300


@contextmanager
def row_bar(total: int, done: int) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar of rows on stderr; if that is not a terminal, print a line every half minute.

    Parameters
    ----------
    done: rows of earlier runs, which the times leave out.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Times(done))
    start = last = time.monotonic()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("rows", total=total, completed=done)

        def advance(rows: int, failed: int) -> None:
            nonlocal last
            now = time.monotonic()
            words = f"rows, {failed} failed" if failed else "rows"
            progress.update(bar, completed=done + rows, description=words)
            if not console.is_terminal and now - last > _LINE_SECONDS:
                last = now
                log(f"{done + rows} of {total} {words}, {times_text(now - start, rows, total - done)}")

        yield advance


def times_text(elapsed_s: float, rows: int, total: int) -> str:
    """The time since the start and, after the first row, what the others take at the mean rate; each with its name.

    >>> times_text(90.0, rows=30, total=150)
    '0:01:30 elapsed, about 0:06:00 left'
    """
    elapsed = f"{timedelta(seconds=round(elapsed_s))} elapsed"
    if not rows:
        return elapsed
    return f"{elapsed}, about {timedelta(seconds=round(elapsed_s / rows * (total - rows)))} left"


def log_failures(first: Sequence[tuple[int | str, str]], failed: int) -> None:
    """Print why the first rows failed, and how many others did.

    Parameters
    ----------
    first: id and reason of each.
    failed: number of all failed rows.
    """
    for name, reason in first:
        text = one_line(reason)
        log(f"failed: {name}: {text if len(text) <= _REASON_LENGTH else text[:_REASON_LENGTH] + '...'}")
    if failed > len(first):
        log(f"failed: {failed - len(first)} more")


class _Times(ProgressColumn):
    """`times_text` of a bar."""

    def __init__(self, done: int) -> None:
        super().__init__()
        self._done = done

    def render(self, task: Task) -> Text:
        rows, total = int(task.completed) - self._done, int(task.total or 0) - self._done
        return Text(times_text(task.elapsed or 0.0, rows, total))
