"""Output of the commands: results on stdout; messages, notes and progress bars on stderr.

While models run, `only_results` redirects what libraries print to stderr, so that stdout contains results only.
"""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING

from . import spinner
from .fitted import fitted, markdown_blocks

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import TaskID
    from rich.table import Table

    from tangovlm.pipeline.answer import Answer
    from tangovlm.streaming.answer import StreamAnswer

STAGE_LABELS = {"decode": "decoding frames", "encode": "encoding frames", "generate": "generating"}

StageProgress = Callable[[str, int, int], None]


def plain(text: str) -> str:
    """Remove control characters, with which a model or a file name could overwrite the terminal."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in {"Cc", "Cs"})


def one_line(text: str) -> str:
    """Remove control characters and line breaks."""
    return plain(" ".join(text.split()))


class CommandFailedError(Exception):
    """Ends a command with one line and status 1: neither the user's mistake nor a bug."""


@contextmanager
def children_on_stderr() -> Iterator[None]:
    """Redirect file descriptor 1 to stderr within the context, because processes of an engine write to it directly."""
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


def log_error(message: str) -> None:
    """Print one line about an error to stderr."""
    spinner.stop()
    print(f"tangovlm: {one_line(message)}", file=sys.stderr)


def log(message: str) -> None:
    """Print one line that is not a result to stderr."""
    spinner.stop()
    print(one_line(message), file=sys.stderr)


def log_notes(answers: Iterable[Answer | StreamAnswer], printed: Collection[str] = ()) -> None:
    """Print each distinct note of the answers once, except those that are printed already."""
    for note in dict.fromkeys(note for answer in answers for note in answer.notes):
        if note not in printed:
            log(f"note: {note}")


def show(result: RenderableType, *, to_stderr: bool = False) -> None:
    """Print a result. A string is printed literally, without markup."""
    from rich.console import Console
    from rich.text import Text

    spinner.stop()
    console = Console(stderr=to_stderr, highlight=False, soft_wrap=isinstance(result, str))
    console.print(Text(plain(result)) if isinstance(result, str) else result)


def show_markdown(page: str, *, to_stderr: bool = False) -> None:
    """Print a page of Markdown with tables that fit the terminal."""
    from rich.console import Console

    spinner.stop()
    console = Console(stderr=to_stderr, highlight=False)
    for block in markdown_blocks(plain(page), console.width):
        console.print(block)


def show_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table that fits the terminal, see `fitted`."""
    from rich.console import Console

    spinner.stop()
    console = Console(highlight=False)
    for table in fitted(head, rows, console.width):
        console.print(table)


def columns(*titles: str) -> Table:
    """A table with these columns, which are never narrower than a word of their titles."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for title in titles:
        table.add_column(title, min_width=max(map(len, title.split()), default=0))
    return table


def entries(cards: Iterable[tuple[str, Mapping[str, str]]]) -> Table:
    """Named entries, each with its fields below its name; lines break between words only, at any width.

    Parameters
    ----------
    cards: the name of each entry, and its fields.
    """
    from rich.table import Table
    from rich.text import Text

    # The space between the columns is in the first one: a last column with padding would be two characters narrower.
    table = Table(box=None, show_header=False, padding=0, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, fields in cards:
        table.add_row(Text(name, style="bold"))
        for title, value in fields.items():
            table.add_row(f"  {title}  ", Text(value))
    return table


def show_json(result: Mapping[str, object] | Sequence[object]) -> None:
    """Print a result as one line of JSON."""
    spinner.stop()
    print(json.dumps(result, allow_nan=False), flush=True)


@contextmanager
def only_results() -> Iterator[None]:
    """Redirect what libraries print to stderr, and hide their progress bars and all but their errors."""
    from huggingface_hub.utils import logging as hub
    from transformers.utils import logging as models

    bars, levels = models.is_progress_bar_enabled(), (models.get_verbosity(), hub.get_verbosity())
    models.set_verbosity_error()
    hub.set_verbosity_error()
    models.disable_progress_bar()
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        models.set_verbosity(levels[0])
        hub.set_verbosity(levels[1])
        if bars:
            models.enable_progress_bar()


@contextmanager
def stage_bars(prefix: str = "") -> Iterator[StageProgress]:
    """Show one progress bar per stage on stderr until the context ends; none if stderr is not a terminal.

    The yielded function takes a stage, the number of steps done and their total.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    spinner.stop()
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        tasks: dict[str, TaskID] = {}

        def advance(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(prefix + STAGE_LABELS.get(stage, stage), total=total)
            progress.update(tasks[stage], completed=done, total=total)

        yield advance
