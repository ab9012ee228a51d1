"""Tables of the page: answers, counts and times, tokens by layer, notes and settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING

from ..exchange import STAGES, Exchange, heading, is_right, layer_words, percent, stage_ms, token_words

if TYPE_CHECKING:
    from tangovlm.pipeline.answer import Answer


def summary(exchange: Exchange) -> str:
    """What the method kept, in one sentence."""
    answer = exchange.answer
    share = percent(answer.tokens_after / answer.tokens_before) if answer.tokens_before else "all"
    # With newlines, `token_words` contains the percentage.
    share = f" ({share})" if answer.newlines_before <= 1 else ""
    return f"{answer.method} kept {token_words(answer)}{share}" + (
        f", in the layers {layers}" if (layers := layer_words(answer)) else ""
    )


def answers_table(exchanges: Sequence[Exchange]) -> str:
    """Questions, true answers if known, and answers."""
    known = any(exchange.truth is not None for exchange in exchanges)
    head = ["question", *(["truth"] if known else []), *(escape(heading(answer)) for answer in exchanges[0].answers)]
    rows = []
    for exchange in exchanges:
        cells = [escape(exchange.question)]
        if known:
            cells.append(escape(exchange.truth or ""))
        for answer in exchange.answers:
            mark = "" if exchange.truth is None else "right" if is_right(answer, exchange.truth) else "wrong"
            cells.append(f"<span class='{mark}'>{escape(answer)}</span>" if mark else escape(answer))
        rows.append(cells)
    return table(head, rows)


def figures_table(exchanges: Sequence[Exchange]) -> str:
    """Counts, and the time of each stage."""
    columns = list(zip(*(exchange.answers for exchange in exchanges), strict=True))
    times = [stage_ms(column) for column in columns]
    rows = [["visual tokens", *(f"{column[0].tokens_after}" for column in columns)]]
    if any(layer_words(column[0]) for column in columns):
        rows.append(["in each layer", *(layer_words(column[0]) for column in columns)])
    rows += [
        [f"{words} (ms)", *(f"{column.get(stage, 0.0):.1f}" for column in times)]
        for stage, words in STAGES.items()
        if any(stage in column for column in times)
    ]
    rows.append(["sum (ms)", *(f"{sum(column.values()):.1f}" for column in times)])
    mean = f"<p class=quiet>Times are means over {len(exchanges)} questions.</p>" if len(exchanges) > 1 else ""
    return table(["", *(escape(heading(column[0])) for column in columns)], rows, "figures") + mean


def layers_table(answer: Answer) -> str:
    """How many visual tokens each group of layers reads, and how many are dropped before it; empty if all read one."""
    if not answer.tokens_per_layer:
        return ""
    groups: list[tuple[str, int]] = [("video", answer.tokens_before)]
    first = 0
    for tokens, layers in groupby(answer.tokens_per_layer):
        last = first + len(list(layers)) - 1
        groups.append((layer_range(first, last), tokens))
        first = last + 1
    rows = []
    for place, (name, tokens) in enumerate(groups):
        share = tokens / answer.tokens_before
        dropped = groups[place - 1][1] - tokens if place else 0
        bar = f"<div class=bar style='width:{100 * share:.1f}%'></div>"
        rows.append([name, f"{tokens}", percent(share), f"{dropped}" if place else "", bar])
    counts = table(["", "tokens", "of all", "dropped or merged before", ""], rows, "figures layered")
    passed = ""
    if answer.first_pass_groups:
        read, layers_read = sum(answer.first_pass_groups), answer.first_pass_layers
        passed = f"<p class=quiet>A first pass read {read} tokens in {layers_read} layers to choose them.</p>"
    return f"<h2>Tokens in the layers of the language model</h2>{counts}{passed}"


def layer_range(first: int, last: int) -> str:
    """`layer 4` or `layers 0–3`."""
    return f"layer {first}" if first == last else f"layers {first}–{last}"


def notes_list(exchanges: Sequence[Exchange]) -> str:
    """The notes of all answers, each once; empty if there are none."""
    answers = [answer for exchange in exchanges for answer in exchange.answers]
    notes = dict.fromkeys(note for answer in answers for note in answer.notes)
    if not notes:
        return ""
    return "<h2>Notes</h2><ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>"


def settings_list(settings: Mapping[str, object]) -> str:
    """Names and values."""
    pairs = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>" for name, value in settings.items()
    )
    return f"<dl class=settings>{pairs}</dl>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "text") -> str:
    """A table whose cells are HTML; `kind` is its CSS class."""
    top = f"<thead><tr>{''.join(f'<th scope=col>{name}</th>' for name in head)}</tr></thead>"
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    # What scrolls can be scrolled by keyboard too.
    return f"<div class=scroll tabindex=0><table class='{kind}'>{top}<tbody>{lines}</tbody></table></div>"
