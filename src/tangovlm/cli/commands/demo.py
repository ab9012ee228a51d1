"""`tangovlm demo`: render a clip, ask about it with all tokens and with 10 %, and draw which tokens were kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import tangovlm
from tangovlm.errors import InputError
from tangovlm.report import (
    RETENTIONS,
    Exchange,
    check_writable,
    heading,
    is_right,
    whole_file,
    write_whole,
)

from ..asking import Run, load, settings_of, unpruned, write_page
from ..options import AsJson
from ..output import columns, log, log_notes, only_results, plain, show, show_json
from ..tables import figures_rows

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from tangovlm.tokens import Pruner

METHOD, RETENTION = "tango", 0.1
MAX_NEW_TOKENS = 16


def demo(
    output_dir: Annotated[Path, typer.Option(help="Directory for the clip, the picture and the report.")] = Path(
        "tangovlm-demo"
    ),
    as_json: AsJson = False,
) -> None:
    """Ask the embedded model about a rendered clip, with all tokens and with 10 %, side by side."""
    _make_folder(output_dir)
    from tangovlm.report import draw_picture, png, scene

    pruner = tangovlm.method(METHOD, retention=RETENTION)
    clip, picture, page = (output_dir / name for name in ("clip.mp4", "kept.png", "report.html"))
    for file in (clip, picture, page):
        check_writable(file, "--output-dir")
    with only_results():
        exchanges = _exchanges(clip, pruner)
        answer = exchanges[0].answer
        drawn = scene(answer.frames, answer.video)
        subtitle = f"{answer.model}; {drawn.steps} frames in {len(drawn.segments)} segments"
        title = f"{answer.method} keeps {answer.tokens_after} of {answer.tokens_before} visual tokens"
        write_whole(picture, png(draw_picture(drawn, title, subtitle)))
        settings = {"video": clip.name, "model": answer.model} | settings_of(pruner)
        write_page(page, exchanges, "tangovlm demo", settings)
    log_notes(each for exchange in exchanges for each in exchange.answers)
    if as_json:
        show_json({"video": str(clip), "picture": str(picture), "report": str(page)} | _as_dict(exchanges))
        return
    show(_answers_table(exchanges))
    show(_figures_table(exchanges))
    show(f"clip:    {clip}\npicture: {picture}\nreport:  {page}")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--output-dir {folder} cannot be created: {error.strerror}: choose another directory"
        ) from error


def _exchanges(clip: Path, pruner: Pruner) -> list[Exchange]:
    """Render the clip, warm up, and ask every question about it with all tokens and with the method."""
    from tangovlm.session.records import Recording
    from tangovlm.tiny.clip import write_demo

    log(f"rendering {clip}")
    with whole_file(clip) as temporary:
        questions = write_demo(temporary)
    run = Run(clip, load(None), frames=None, max_new_tokens=MAX_NEW_TOKENS, record=Recording(RETENTIONS))
    run.warm_up(questions[0][0], pruner)
    encoded = run.encode(pruner)
    everything = encoded.with_method(unpruned(pruner))
    exchanges = []
    for number, (question, truth) in enumerate(questions):
        prefix = f"question {number + 1} of {len(questions)}, "
        whole = run.ask_about(everything, question, prefix + "all tokens: ")
        answer = run.ask_about(encoded, question, prefix + f"{pruner.name}: ")
        exchanges.append(Exchange(question, answer, whole, truth))
    return exchanges


def _answers_table(exchanges: list[Exchange]) -> Table:
    table = columns("question", "truth", *(heading(answer) for answer in exchanges[0].answers))
    for exchange in exchanges:
        truth = exchange.truth or ""
        marked = (_marked(answer, is_right(answer, truth)) for answer in exchange.answers)
        table.add_row(exchange.question, truth, *marked)
    return table


def _marked(answer: str, right: bool) -> Text:
    from rich.text import Text

    return Text(f"{plain(answer)} {'✓' if right else '✗'}", style="green" if right else "red")


def _figures_table(exchanges: list[Exchange]) -> Table:
    groups = list(zip(*(exchange.answers for exchange in exchanges), strict=True))
    table = columns(f"mean of {len(exchanges)} questions", *(heading(group[0]) for group in groups))
    for column in table.columns[1:]:
        column.justify = "right"
    right = (sum(is_right(a, e.truth or "") for a, e in zip(c, exchanges, strict=True)) for c in groups)
    table.add_row("right answers", *(f"{count} of {len(exchanges)}" for count in right))
    for row in figures_rows(groups):
        table.add_row(*row)
    return table


def _as_dict(exchanges: list[Exchange]) -> dict[str, object]:
    return {
        "questions": [
            {
                "question": exchange.question,
                "truth": exchange.truth,
                "pruned": exchange.answer.as_dict(),
                "unpruned": None if exchange.unpruned is None else exchange.unpruned.as_dict(),
            }
            for exchange in exchanges
        ]
    }
