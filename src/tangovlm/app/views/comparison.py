"""Several methods on one question: a table, and the tokens that each keeps."""

import csv
import io
from html import escape

from tangovlm.report import is_right

from ..results import Column, Run
from . import parts
from .frames import inside_words, legend, strip, strip_words

_HEAD = ("method", "answer", "visual tokens", "prune", "language model", "whole time")
EMPTY = (
    "<div class=tv-empty><p>Choose methods above: each answers the question of the page with the same share of the "
    "tokens, and you see beside each other what they keep.</p></div>"
)


def comparison(run: Run, token: str) -> str:
    """The table and the frames of a run.

    Parameters
    ----------
    token: of the session, for the link that saves the table.
    """
    if run.error:
        return parts.error(run.error)
    head = "".join(f"<th scope=col>{name}</th>" for name in _HEAD)
    rows = "".join(_row(column, run) for column in run.columns)
    shown = [
        (column, column.result) for column in run.columns if column.result is not None and not column.choice.is_full
    ]
    strips = "".join(
        f"<section class=tv-row><h4>{escape(column.heading)}{_quiet(inside_words(result))}"
        f"{_quiet(strip_words(result))}</h4>{strip(result)}</section>"
        for column, result in shown
    )
    # Methods without saliency have no scale: the legend is that of one with it, if there is one.
    explained = sorted((result for _, result in shown), key=lambda result: "saliency" not in result.layers)
    marks = f"<div class=tv-marks>{legend(explained[0])}</div>" if explained else ""
    results = [column.result for column in run.columns if column.result is not None]
    after = ""
    if run.is_done and results:
        after = parts.link(f"comparison/{token}.csv", "Save the table as CSV") + parts.notes(results)
    truth = "" if run.truth is None else f" <span class=tv-quiet>true answer: {escape(run.truth)}</span>"
    return (
        f"<p class=tv-question>{escape(run.question)}{truth}</p>{parts.status(run.stage)}"
        f"<div class=tv-scroll tabindex=0 role=region aria-label='Methods compared'><table class=tv-table>"
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{marks}{strips}{after}"
    )


def as_csv(run: Run) -> str:
    """The table of a run, with times in milliseconds."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    stages = ("decode", "encode", "prune", "prefill", "decode_tokens")
    head = [
        "clip",
        "frames",
        "question",
        "truth",
        "method",
        "retention",
        "answer",
        "right",
        "tokens_before",
        "tokens_after",
    ]
    writer.writerow([*head, *(f"{stage}_ms" for stage in stages), "error"])
    for column in run.columns:
        shared: list[object] = [run.clip.name, run.frames, run.question, run.truth or ""]
        shared += ["" if column.choice.is_full else column.choice.method, column.choice.retention]
        if column.result is None:
            writer.writerow([*shared, *[""] * (4 + len(stages)), column.error])
            continue
        answer = column.result.answer
        right = "" if run.truth is None else is_right(str(answer), run.truth)
        times = [f"{answer.timings_ms.get(stage, 0.0):.3f}" for stage in stages]
        writer.writerow([*shared, str(answer), right, answer.tokens_before, answer.tokens_after, *times, ""])
    return out.getvalue()


def _quiet(words: str) -> str:
    return f" <span class=tv-quiet>{escape(words)}</span>" if words else ""


def _row(column: Column, run: Run) -> str:
    name = f"<th scope=row>{escape(column.heading)}</th>"
    if column.error:
        return f"<tr>{name}<td colspan={len(_HEAD) - 1} class=tv-quiet>{escape(column.error)}</td></tr>"
    if column.result is None:
        text = escape(column.text) or "<span class=tv-wait></span>"
        return f"<tr aria-busy=true>{name}<td>{text}</td>{'<td></td>' * (len(_HEAD) - 2)}</tr>"
    answer, times = column.result.answer, column.result.answer.timings_ms
    model_ms = times.get("prefill", 0.0) + times.get("decode_tokens", 0.0)
    layers = (
        f" <small>({', '.join(map(str, answer.tokens_per_layer))} by layer)</small>" if answer.tokens_per_layer else ""
    )
    cells = [
        f"{escape(str(answer)) or '<em>no text</em>'} {parts.verdict(column, run)}",
        f"{answer.tokens_after:,}{layers}",
        parts.seconds(times.get("prune", 0.0)),
        parts.seconds(model_ms),
        parts.seconds(column.result.total_ms),
    ]
    return f"<tr>{name}{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
