"""Output of the commands: results on stdout; messages, notes and progress bars on stderr.

While models run, `only_results` redirects what libraries print to stderr, so that stdout contains results only.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

if TYPE_CHECKING:
    from tangovlm.pipeline.ask import Answer

STAGE_LABELS = {"decode": "decoding frames", "encode": "encoding frames", "generate": "generating"}

StageProgress = Callable[[str, int, int], None]


def plain(text: str) -> str:
    """Remove control characters, with which a model or a file name could overwrite the terminal."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in {"Cc", "Cs"})


def one_line(text: str) -> str:
    """Remove control characters and line breaks."""
    return plain(" ".join(text.split()))


def log_error(message: str) -> None:
    """Print one line about an error to stderr."""
    print(f"tangovlm: {one_line(message)}", file=sys.stderr)


def log(message: str) -> None:
    """Print one line that is not a result to stderr."""
    print(one_line(message), file=sys.stderr)


def log_notes(answers: Iterable[Answer]) -> None:
    """Print each distinct note of the answers once."""
    for note in dict.fromkeys(note for answer in answers for note in answer.notes):
        log(f"note: {note}")


def show(result: RenderableType, *, to_stderr: bool = False) -> None:
    """Print a result. A string is printed literally, without markup."""
    console = Console(stderr=to_stderr, highlight=False, soft_wrap=isinstance(result, str))
    console.print(Text(plain(result)) if isinstance(result, str) else result)


def show_json(result: Mapping[str, object] | Sequence[object]) -> None:
    """Print a result as one line of JSON."""
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
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        tasks: dict[str, TaskID] = {}

        def advance(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(prefix + STAGE_LABELS.get(stage, stage), total=total)
            progress.update(tasks[stage], completed=done, total=total)

        yield advance
