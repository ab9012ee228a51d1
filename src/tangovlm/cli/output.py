"""What the commands share: where talk and results go, progress bars, and the words for an answer.

Results go to stdout, everything else to stderr. While models run, stdout is closed to the libraries (`only_results`),
so that no chatter of theirs can end up between the results.
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

STAGE_WORDS = {"decode": "decoding frames", "encode": "encoding frames", "generate": "generating"}

StageProgress = Callable[[str, int, int], None]


def plain(text: str) -> str:
    """Text without control characters, which a model or a file name could use to rewrite the terminal."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in {"Cc", "Cs"})


def one_line(text: str) -> str:
    """Text without control characters and line breaks."""
    return plain(" ".join(text.split()))


def complain(message: str) -> None:
    """One line about a mistake."""
    print(f"tangovlm: {one_line(message)}", file=sys.stderr)


def talk(message: str) -> None:
    """One line of news that is not a result."""
    print(one_line(message), file=sys.stderr)


def talk_notes(answers: Iterable[Answer]) -> None:
    """Every note of the answers, each once."""
    for note in dict.fromkeys(note for answer in answers for note in answer.notes):
        talk(f"note: {note}")


def show(result: RenderableType, *, to_stderr: bool = False) -> None:
    """Print a result; a string is printed as it is, without markup."""
    console = Console(stderr=to_stderr, highlight=False, soft_wrap=isinstance(result, str))
    console.print(Text(plain(result)) if isinstance(result, str) else result)


def show_json(result: Mapping[str, object] | Sequence[object]) -> None:
    """One line of JSON."""
    print(json.dumps(result, allow_nan=False), flush=True)


@contextmanager
def only_results() -> Iterator[None]:
    """Send what libraries print to stderr, and keep those that load models from talking about ordinary things."""
    from huggingface_hub.utils import logging as hub
    from transformers.utils import logging as models

    bars, before = models.is_progress_bar_enabled(), (models.get_verbosity(), hub.get_verbosity())
    models.set_verbosity_error()
    hub.set_verbosity_error()
    models.disable_progress_bar()
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        models.set_verbosity(before[0])
        hub.set_verbosity(before[1])
        if bars:
            models.enable_progress_bar()


@contextmanager
def stage_bars(prefix: str = "") -> Iterator[StageProgress]:
    """Progress bars on stderr, one a stage, gone when done; nothing where stderr is not a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        tasks: dict[str, TaskID] = {}

        def advance(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(prefix + STAGE_WORDS.get(stage, stage), total=total)
            progress.update(tasks[stage], completed=done, total=total)

        yield advance
