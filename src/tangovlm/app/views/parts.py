"""Small parts that several views share."""

from collections.abc import Iterable
from html import escape

from tangovlm.report.exchange import STAGES, is_right, percent, stage_ms

from ..clips import Clip
from ..limits import Limits, clock
from ..results import Column, Result, Run


def error(message: str) -> str:
    """One line about a mistake, which screen readers announce; empty for no message."""
    return f"<p class=tv-error role=alert>{escape(message)}</p>" if message else ""


def status(message: str) -> str:
    """One line about what is going on; empty for no message."""
    return f"<p class=tv-status role=status>{escape(message)}</p>" if message else ""


def player(url: str, clip: Clip) -> str:
    """A clip that can be played, with its name and duration."""
    # The names of examples have it already.
    label = escape(f"{clip.name}, {clock(clip.seconds)}" if clip.uploaded else clip.name, quote=True)
    return (
        f"<figure class=tv-player><video controls loop muted playsinline preload=metadata poster='{clip.poster}' "
        f"src='{escape(url, quote=True)}' aria-label='{label}'></video>"
        f"<figcaption>{label}</figcaption></figure>"
    )


def still(name: str, poster: str) -> str:
    """A frame in the place of an example clip whose file is still being rendered."""
    label = escape(name, quote=True)
    return f"<figure class=tv-player><img src='{poster}' alt='{label}'><figcaption>{label}</figcaption></figure>"


def picker(token: str, limits: Limits) -> str:
    """A field for a file of the user, which the script of the page sends.

    Parameters
    ----------
    token: of the session.
    """
    words = f"up to {limits.max_megabytes:g} MB and {clock(60 * limits.max_minutes)}"
    most = f"data-bytes={round(limits.max_megabytes * 10**6)} data-limit='{limits.max_megabytes:g}'"
    return (
        "<label class=tv-picker><input type=file accept='video/*,.mkv,.ts,.gif' "
        f"data-to='./clip/{escape(token, quote=True)}' {most}>"
        f"<span><b>Your own video</b>: choose a file or drop it here <span class=tv-quiet>({words})</span></span>"
        "</label><div class=tv-upload-message></div>"
    )


def verdict(column: Column, run: Run) -> str:
    """Whether an answer is the true one, if that is known."""
    if column.result is None or run.truth is None:
        return ""
    if is_right(str(column.result.answer), run.truth):
        return "<span class='tv-mark right'>✓ right</span>"
    return f"<span class='tv-mark wrong'>✗ wrong: {escape(run.truth)}</span>"


def seconds(milliseconds: float) -> str:
    """`0.42 s`, or `12 ms` below a tenth of a second.

    >>> seconds(420), seconds(12.3)
    ('0.42 s', '12 ms')
    """
    return f"{milliseconds:.0f} ms" if milliseconds < 100 else f"{milliseconds / 1000:.2f} s"


def bar(result: Result, longest_ms: float) -> str:
    """The stages of an answer as a bar whose length is its time."""
    times = stage_ms([result.answer])
    parts = "".join(
        f"<i class='stage-{stage}' style='width:{100 * ms / max(longest_ms, 1e-9):.2f}%'></i>"
        for stage, ms in times.items()
    )
    words = ", ".join(f"{STAGES[stage]} {seconds(ms)}" for stage, ms in times.items())
    return f"<div class=tv-bar role=img aria-label='{words}'>{parts}</div>"


def stage_legend(results: Iterable[Result]) -> str:
    """The stages with their colours and their times in each of the results."""
    columns = [stage_ms([result.answer]) for result in results]
    rows = "".join(
        f"<li><i class='tv-swatch stage-{stage}'></i>{name} "
        f"<b>{' · '.join(seconds(column.get(stage, 0.0)) for column in columns)}</b></li>"
        for stage, name in STAGES.items()
        if any(stage in column for column in columns)
    )
    return f"<ul class=tv-legend>{rows}</ul>" if rows else ""


def share(result: Result) -> str:
    """Kept visual tokens as a percentage."""
    answer = result.answer
    return percent(answer.tokens_after / answer.tokens_before) if answer.tokens_before else "100 %"


def notes(results: Iterable[Result]) -> str:
    """Each distinct note of the answers once."""
    found = dict.fromkeys(note for result in results for note in result.answer.notes)
    if not found:
        return ""
    return "<ul class=tv-notes>" + "".join(f"<li>{escape(note)}</li>" for note in found) + "</ul>"


def link(href: str, text: str) -> str:
    """A link that saves a file and looks like a button."""
    return f"<a class=tv-button href='{escape(href, quote=True)}' download>{escape(text)}</a>"
