"""Questions and answers of `tangovlm ask`: alone, compared with all tokens, or as a conversation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from tangovlm.errors import InputError, TangoError
from tangovlm.report import Exchange, heading

from ...asking import Run, log_follow_up, unpruned
from ...output import columns, log, log_error, plain, show, show_json
from ...tables import figures_line, figures_rows
from ...typed import is_terminal, typed

if TYPE_CHECKING:
    from tangovlm.tokens import Pruner


def answers(run: Run, questions: Sequence[str], pruner: Pruner) -> list[Exchange]:
    if len(questions) == 1:
        return [Exchange(questions[0], run(questions[0], pruner))]
    clip = run.encode(pruner, questions)
    return [Exchange(*pair) for pair in zip(questions, run.ask_all_about(clip, questions), strict=True)]


def compared(run: Run, questions: Sequence[str], pruner: Pruner) -> list[Exchange]:
    """Answers with all tokens and with the method's, from one encoding."""
    all_tokens = unpruned(pruner)
    clip = run.encode(pruner, questions, [all_tokens], warm_up=True)
    everything = clip.with_method(all_tokens)
    exchanges = []
    for number, question in enumerate(questions, start=1):
        prefix = f"question {number} of {len(questions)}: " if len(questions) > 1 else ""
        whole = run.ask_about(everything, question, f"{prefix}all tokens: ")
        exchanges.append(Exchange(question, run.ask_about(clip, question, f"{prefix}{pruner.name}: "), whole))
    return exchanges


def conversation(run: Run, questions: Sequence[str], pruner: Pruner, printed: set[str]) -> Iterator[Exchange]:
    """Ask the questions of the command line, then those of standard input; says which of them cannot be answered.

    Parameters
    ----------
    printed: notes that were printed, to which those printed here are added.
    """
    clip = run.encode(pruner, questions)
    for question, answer in turns(lambda *turn: run.ask_about(clip, *turn), questions, run.llm, printed):
        yield Exchange(question, answer)


def turns(
    ask: Callable[[str, str, Sequence[tuple[str, str]]], Any], questions: Sequence[str], llm: Any, printed: set[str]
) -> Iterator[tuple[str, Any]]:
    """Questions and answers of a conversation: those of the command line, then those of standard input.

    Parameters
    ----------
    ask: answers a question, given a text before its progress bars (none) and the turns so far.
    printed: see `conversation`.
    """
    history: list[tuple[str, str]] = []
    failed = 0
    for question in chain(questions, typed()):
        if len(history) == 1:
            printed |= log_follow_up(llm)
        try:
            answer = ask(question, "", history)
        except TangoError as error:
            failed += 1
            log_error(str(error))
            continue
        history = [*history, (question, str(answer))]
        yield question, answer
    if failed and not is_terminal():
        raise InputError(f"{failed} of {failed + len(history)} questions could not be answered")
    if not history and not is_terminal():
        raise InputError("no question is given: write it after the video, or pipe questions to the command")


def show_exchange(exchange: Exchange, as_json: bool, *, several: bool) -> None:
    answer, everything = exchange.answer, exchange.unpruned
    if as_json:
        whole = {} if everything is None else {"unpruned": everything.as_dict()}
        show_json({"question": exchange.question} | answer.as_dict() | whole)
    elif everything is None:
        if several:
            log(f"question: {exchange.question}")
        show(answer)
        log(figures_line(answer))
    else:
        from rich.text import Text

        table = columns(exchange.question if several else "", *(heading(each) for each in exchange.answers))
        table.add_row("answer", *(Text(plain(each)) for each in exchange.answers))
        for row in figures_rows([each] for each in exchange.answers):
            table.add_row(*row)
        show(table)
