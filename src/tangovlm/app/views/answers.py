"""The answers of the full and of the pruned model, side by side."""

from html import escape
from textwrap import shorten

from tangovlm.report import layer_words

from ..results import Column, Run
from . import parts

EMPTY = (
    "<div class=tv-empty><p><b>Ask something about the clip.</b> The model answers twice: with all visual tokens of "
    "the video, and with the few that a method keeps. Below the answers you see which tokens these are.</p></div>"
)


def answers(run: Run, token: str) -> str:
    """The answers of a run.

    Parameters
    ----------
    token: of the session, for the link that saves the run.
    """
    if run.error:
        return f"<p class=tv-question>{escape(shorten(run.question, 200))}</p>{parts.error(run.error)}"
    results = [column.result for column in run.columns if column.result is not None]
    longest_ms = max((result.total_ms for result in results), default=0.0)
    cards = "".join(_card(column, run, longest_ms) for column in run.columns)
    after = ""
    if run.is_done and results:
        after = (
            f"{parts.stage_legend(results)}<p class=tv-quiet>Times are those of one question alone. This page "
            f"decodes and encodes a clip once.</p>{parts.notes(results)}"
        )
    if run.exchange is not None:
        after += parts.link(f"run/{token}.html", "Save this run as one HTML file")
    return (
        f"<p class=tv-question>{escape(run.question)} <span class=tv-quiet>about {escape(run.clip.name)}</span></p>"
        f"{parts.status(run.stage)}<div class=tv-cards>{cards}</div>{after}"
    )


def _card(column: Column, run: Run, longest_ms: float) -> str:
    kind = "full" if column.choice.is_full else "pruned"
    head = f"<h3>{escape(column.heading)}</h3>"
    if column.error:
        return f"<section class='tv-card {kind}'>{head}{parts.error(column.error)}</section>"
    if column.result is None:
        text = f"{escape(column.text)}<span class=tv-caret></span>" if column.text else "<span class=tv-wait></span>"
        return f"<section class='tv-card {kind}' aria-busy=true>{head}<p class=tv-answer>{text}</p></section>"
    result, answer = column.result, column.result.answer
    most = "" if answer.tokens_cap is None else f", at most {answer.tokens_cap:,}"
    of = f"of {answer.tokens_before:,} ({parts.share(result)}{most})"
    figures = {
        "visual tokens": f"{answer.tokens_after:,} <small>{of}</small>",
        "time": parts.seconds(result.total_ms),
    }
    if answer.newlines_before > 1:
        figures["newlines"] = f"{answer.newlines_after:,} <small>of {answer.newlines_before:,}</small>"
    if layers := layer_words(answer):
        figures["in each layer"] = escape(layers)
    listed = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in figures.items())
    return (
        f"<section class='tv-card {kind}'>{head}{parts.verdict(column, run)}"
        f"<p class=tv-answer>{escape(str(answer)) or '<em>no text</em>'}</p>"
        f"<dl>{listed}</dl>{parts.bar(result, longest_ms)}</section>"
    )
