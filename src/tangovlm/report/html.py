"""A self-contained HTML page with answers, counts, times, and the frames with their kept tokens."""

import base64
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files

from PIL import Image

from .exchange import STAGES, Exchange, heading, is_right, layer_words, percent, stage_ms, token_words
from .overlay import kept_layer, resize, saliency_layer
from .palette import Pixels, cluster_colours, css, segment_colour
from .scene import Scene

MIN_WIDTH, MAX_WIDTH = 224, 448
JPEG_QUALITY = 88
HELP = "Point at a token to see its cluster in every frame."


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
    body = (
        f"<h1>{escape(title)}</h1>",
        f"<p class=quiet>{escape(_summary(exchanges[0]))}</p>",
        "<h2>Answers</h2>",
        _answers(exchanges),
        "<h2>Figures</h2>",
        _figures(exchanges),
        "<h2>Frames</h2>",
        _frames(scene),
        _notes(exchanges),
        "<h2>Settings</h2>",
        _table([], [[escape(name), escape(str(value))] for name, value in settings.items()]),
        f"<script>{script}</script>" if script else "",
    )
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


def _frames(scene: Scene) -> str:
    width = max(MIN_WIDTH, min(MAX_WIDTH, scene.images[0].shape[1]))
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
    colours = cluster_colours(scene.slots)
    figures = "".join(_figure(scene, step, width, colours) for step in range(scene.steps))
    hover = "" if scene.sources is None else f"<p id=readout class=quiet>{HELP}</p>{_tokens(scene)}"
    return f"<section>{radios}<div class=layers>{labels}</div><div class=frames>{figures}</div>{hover}</section>"


def _figure(scene: Scene, step: int, width: int, colours: Pixels) -> str:
    segment = scene.segment_of(step)
    frame = resize(scene.images[step], width)
    pictures = {"frame": frame}
    kept = ""
    if scene.saliency is not None:
        pictures["saliency"] = saliency_layer(frame, scene.saliency[step])
    if scene.sources is not None and scene.kept is not None:
        pictures["kept"] = kept_layer(frame, scene.sources[step], scene.kept[step], colours)
        kept = f"{int(scene.kept[step].sum())} of {scene.kept[step].size}"
    images = "".join(
        f"<img class={layer} alt='{layer} {step + 1}' src='{_data_uri(pixels)}'>" for layer, pixels in pictures.items()
    )
    return (
        f"<figure><figcaption style='border-color:{css(segment_colour(segment))}'>"
        f"<span>{scene.times_s[step]:.2f} s</span><span class=quiet>segment {segment + 1}</span><span>{kept}</span>"
        f"</figcaption><div class=stack>{images}<canvas></canvas></div></figure>"
    )


def _data_uri(pixels: Pixels) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


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
