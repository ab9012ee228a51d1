"""A self-contained HTML page with answers, counts, times, and the frames with their kept tokens."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files

from .exchange import Exchange
from .page.frames import frames_section
from .page.tables import answers_table, figures_table, layers_table, notes_list, settings_list, summary
from .scenes import Scene

MAX_BYTES = 1_000_000
"""Size of a page that frames of any number are scaled to, unless its text and tokens alone take more."""
_THEMES = {"auto": "auto", "light": "light", "dark": "dark"}
_MARKUP = 4000
"""Upper bound of the length of a page without its sections."""


def html_page(scene: Scene, exchanges: Sequence[Exchange], *, title: str, settings: Mapping[str, object]) -> str:
    """Build the page.

    Parameters
    ----------
    scene: the video and its kept tokens.
    exchanges: the questions, at least one, all about this video and with one method.
    title: the heading, usually the name of the video.
    settings: names and values to show.

    All text is escaped. The page loads nothing and runs only its own script, which a content security policy enforces.
    """
    script = _asset("page.js") if scene.sets else ""
    answer = exchanges[0].answer
    before = (
        f"<header><div><h1>{escape(title)}</h1><p class=quiet>{escape(summary(exchanges[0]))}</p></div>",
        f"{_themes()}</header>",
        "<main>",
        "<h2>Answers</h2>" if len(exchanges) > 1 or exchanges[0].unpruned is not None else "<h2>Answer</h2>",
        answers_table(exchanges),
        "<h2>Frames</h2>",
        _whose_tokens(exchanges),
    )
    after = (
        layers_table(answer),
        "<h2>Counts and times</h2>",
        figures_table(exchanges),
        notes_list(exchanges),
        "<h2>Settings</h2>",
        settings_list(settings),
        "</main>",
        f"<script>{script}</script>" if script else "",
    )
    fixed = (*before, *after, title, title, _asset("page.css"))
    used = sum(len(part.encode(errors="replace")) for part in fixed) + _MARKUP
    at_most, layers = answer.tokens_cap is not None, len(answer.tokens_per_layer)
    body = (*before, frames_section(scene, MAX_BYTES - used, at_most=at_most, layers=layers), *after)
    return (
        f"<!doctype html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n{_policy(script)}\n"
        "<meta name=viewport content='width=device-width, initial-scale=1'>\n"
        f"<title>{escape(title)}</title>\n<style>{_asset('page.css')}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + "\n</body>\n</html>\n"
    )


def _whose_tokens(exchanges: Sequence[Exchange]) -> str:
    """A sentence for a method that keeps other tokens for other questions; else empty."""
    first, *others = (_kept_tokens(exchange) for exchange in exchanges)
    if all(each == first for each in others):
        return ""
    return "<p class=quiet>The method keeps other tokens for each question; those of the first one are drawn.</p>"


def _kept_tokens(exchange: Exchange) -> list[list[int]]:
    """The tokens that enter the language model, and those that each cut leaves; empty without a record."""
    video = exchange.answer.video
    if video is None:
        return []
    return [video.selection.indices.tolist(), *(cut.indices.tolist() for cut in video.cuts)]


def _themes() -> str:
    """Radio buttons that the style sheet reads, so that they need no script."""
    radios = "".join(
        f"<input type=radio class=choice name=theme id=theme-{name}{' checked' if name == 'auto' else ''}>"
        f"<label for=theme-{name}>{words}</label>"
        for name, words in _THEMES.items()
    )
    return f"<fieldset class='themes choices'><legend>Colours</legend>{radios}</fieldset>"


def _policy(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return f'<meta http-equiv=Content-Security-Policy content="{policy}">'


def _asset(name: str) -> str:
    return files(__package__).joinpath("page", name).read_text(encoding="utf-8")
