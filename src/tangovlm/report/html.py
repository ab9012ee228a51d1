"""A self-contained HTML page with answers, counts, times, and the frames with their kept tokens."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from html import escape
from importlib.resources import files
from itertools import groupby
from typing import TYPE_CHECKING

from .embed import jpegs, png
from .exchange import STAGES, Exchange, heading, is_right, layer_words, percent, stage_ms, token_words
from .overlay import kept_cells, saliency_cells
from .palette import Pixels, cluster_colours, css, heat_gradient, segment_colour
from .scenes import Scene

if TYPE_CHECKING:
    from tangovlm.pipeline.answer import Answer

MAX_BYTES = 1_000_000
"""Size of a page that frames of any number are scaled to, unless its text and tokens alone take more."""
HELP = "Point at a token, or tap it, to see its cluster in every frame."
_CAPTION = 400
"""Upper bound of the length of a figure without its pictures."""
_CELLS = (8, 6, 4, 1)
"""Pixels of a token's cell in the layer of kept tokens, best first."""


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
    script = _asset("page.js") if scene.sources is not None else ""
    before = (
        f"<h1>{escape(title)}</h1>",
        f"<p class=quiet>{escape(_summary(exchanges[0]))}</p>",
        "<h2>Answers</h2>",
        _answers(exchanges),
        "<h2>Figures</h2>",
        _figures(exchanges),
        _layers(exchanges[0].answer),
        "<h2>Frames</h2>",
    )
    after = (
        _notes(exchanges),
        "<h2>Settings</h2>",
        _table([], [[escape(name), escape(str(value))] for name, value in settings.items()]),
        f"<script>{script}</script>" if script else "",
    )
    used = (
        sum(len(part.encode(errors="replace")) for part in (*before, *after, title, title, _asset("page.css"))) + 4000
    )
    body = (*before, _frames(scene, MAX_BYTES - used), *after)
    return (
        f"<!doctype html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n{_policy(script)}\n"
        "<meta name=viewport content='width=device-width, initial-scale=1'>\n"
        f"<title>{escape(title)}</title>\n<style>{_asset('page.css')}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + "\n</body>\n</html>\n"
    )


def _policy(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return f'<meta http-equiv=Content-Security-Policy content="{policy}">'


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _summary(exchange: Exchange) -> str:
    answer = exchange.answer
    share = percent(answer.tokens_after / answer.tokens_before) if answer.tokens_before else "all"
    # With newlines, `token_words` contains the percentage.
    share = f" ({share})" if answer.newlines_before <= 1 else ""
    return f"{answer.method} kept {token_words(answer)}{share}" + (
        f", in the layers {layers}" if (layers := layer_words(answer)) else ""
    )


def _answers(exchanges: Sequence[Exchange]) -> str:
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
    return _table(head, rows)


def _figures(exchanges: Sequence[Exchange]) -> str:
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
    return _table(["", *(escape(heading(column[0])) for column in columns)], rows, "figures") + mean


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "text") -> str:
    """A table whose cells are HTML; `kind` is its CSS class."""
    top = f"<thead><tr>{''.join(f'<th>{name}</th>' for name in head)}</tr></thead>" if head else ""
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<div class=scroll><table class={kind}>{top}<tbody>{lines}</tbody></table></div>"


def _layers(answer: Answer) -> str:
    """How many visual tokens each group of layers reads, and how many are dropped before it; empty if all read one."""
    if not answer.tokens_per_layer:
        return ""
    groups: list[tuple[str, int]] = [("video", answer.tokens_before)]
    first = 0
    for tokens, layers in groupby(answer.tokens_per_layer):
        last = first + len(list(layers)) - 1
        groups.append((f"layer {first}" if first == last else f"layers {first}–{last}", tokens))
        first = last + 1
    rows = []
    for place, (name, tokens) in enumerate(groups):
        share = tokens / answer.tokens_before
        dropped = groups[place - 1][1] - tokens if place else 0
        bar = f"<div class=bar style='width:{100 * share:.1f}%'></div>"
        rows.append([name, f"{tokens}", percent(share), f"{dropped}" if place else "", bar])
    table = _table(["", "tokens", "of all", "dropped before", ""], rows, "figures layered")
    passed = ""
    if answer.first_pass_groups:
        read, layers_read = sum(answer.first_pass_groups), answer.first_pass_layers
        passed = f"<p class=quiet>A first pass read {read} tokens in {layers_read} layers to choose them.</p>"
    return f"<h2>Tokens in the layers of the language model</h2>{table}{passed}"


def _frames(scene: Scene, limit: int) -> str:
    """The frames with their layers; `limit` bytes bound the length of the JPEG pictures."""
    layers = {"frame": "Frames"}
    if scene.saliency is not None:
        layers["saliency"] = "Saliency"
    if scene.sources is not None:
        layers["kept"] = "Kept tokens and clusters"
    chosen = list(layers)[-1]
    radios = "".join(
        f"<input type=radio class=layer name=layer id=layer-{layer}{' checked' if layer == chosen else ''}>"
        for layer in layers
    )
    labels = "".join(f"<label for=layer-{layer}>{name}</label>" for layer, name in layers.items())
    legends = "".join(_LEGENDS[layer]() for layer in layers)
    over = _overlays(scene)
    tokens = "" if scene.sources is None else f"<p id=readout class=quiet>{HELP}</p>{_tokens(scene)}"
    pictures = jpegs(scene.images, scene.aspect, limit - sum(map(len, over)) - len(tokens) - scene.steps * _CAPTION)
    figures = "".join(map(partial(_figure, scene), range(scene.steps), pictures, over))
    return (
        f"<section>{radios}<div class=layers>{labels}</div>{legends}<div class=frames>{figures}</div>{tokens}</section>"
    )


def _kept_legend() -> str:
    items = {
        "kept": "kept: the picture, outlined in the colour of its cluster",
        "merged": "merged into a kept token: tinted in its colour",
        "dropped": "dropped: dark",
    }
    parts = "".join(f"<span><i class='swatch {name}'></i>{words}</span>" for name, words in items.items())
    return f"<p class='legend of-kept'>{parts}<span>line above a frame: its temporal segment</span></p>"


def _saliency_legend() -> str:
    scale = f"<span>0 <i class=scale style='background:{heat_gradient()}'></i> 1</span>"
    words = "square root of the saliency, as a fraction of its 99th percentile; above that 1"
    return f"<p class='legend of-saliency'>{scale}<span>{words}</span></p>"


_LEGENDS: dict[str, Callable[[], str]] = {"frame": lambda: "", "saliency": _saliency_legend, "kept": _kept_legend}


def _overlays(scene: Scene) -> list[str]:
    """The images above each frame, with cells as large as a quarter of the page has room for."""
    colours = cluster_colours(scene.slots)
    images = [""] * scene.steps
    for cell in _CELLS:
        images = [_overlay(scene, step, colours, cell) for step in range(scene.steps)]
        if sum(map(len, images)) <= MAX_BYTES // 4:
            break
    return images


def _overlay(scene: Scene, step: int, colours: Pixels, cell: int) -> str:
    images = ""
    if scene.saliency is not None:
        images += _layer("saliency", step, saliency_cells(scene.saliency[step]))
    if scene.sources is not None and scene.kept is not None:
        images += _layer("kept", step, kept_cells(scene.sources[step], scene.kept[step], colours, cell))
    return images


def _layer(name: str, step: int, pixels: Pixels) -> str:
    return f"<img class='over {name}' alt='{name} {step + 1}' src='{png(pixels)}'>"


def _figure(scene: Scene, step: int, picture: str, over: str) -> str:
    segment = scene.segment_of(step)
    kept = "" if scene.kept is None else f"{int(scene.kept[step].sum())} of {scene.kept[step].size}"
    return (
        f"<figure><figcaption style='border-color:{css(segment_colour(segment))}'>"
        f"<span>{scene.times_s[step]:.2f} s</span><span class=quiet>segment {segment + 1}</span><span>{kept}</span>"
        f"</figcaption><div class=stack><img class=frame alt='frame {step + 1}' src='{picture}'>{over}"
        "<canvas></canvas></div></figure>"
    )


def _tokens(scene: Scene) -> str:
    """The data of the script: the cluster of every token, the positions of the kept tokens, and the times."""
    if scene.sources is None or scene.kept is None:
        return ""
    data = {
        "sources": scene.sources.tolist(),
        "kept": [[int(i) for i in place] for place in zip(*scene.kept.nonzero(), strict=True)],
        "times": list(scene.times_s),
    }
    return f"<script type=application/json id=tokens>{json.dumps(data, separators=(',', ':'))}</script>"


def _notes(exchanges: Sequence[Exchange]) -> str:
    answers = [answer for exchange in exchanges for answer in exchange.answers]
    notes = dict.fromkeys(note for answer in answers for note in answer.notes)
    if not notes:
        return ""
    return "<h2>Notes</h2><ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>"
