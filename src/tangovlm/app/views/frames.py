"""The frames of a clip with what a method kept of them; the script of the page shows the cluster of a token."""

import json
from html import escape

from tangovlm.report.colours import css
from tangovlm.report.palette import heat_gradient, segment_colour

from ..layers import KEPT_COLOUR, NAMES
from ..results import Column, Result, Run

STRIP = 8
"""Frames of a strip."""
_KEYS = "Arrow keys move between tokens, Page Up and Page Down between frames."
_HELP = "Point at a token, tap it, or use the arrow keys, to see its cluster in every frame."


def layer_choice(group: str) -> str:
    """The choice of what is drawn over frames; style sheets read it.

    Parameters
    ----------
    group: "tv-layer" for `frames`, "tv-strip" for `strip`.
    """
    labels = "".join(
        f"<label><input type=radio name={group} id={group}-{name}{' checked' if name == 'kept' else ''}>{words}</label>"
        for name, words in NAMES.items()
    )
    return f"<fieldset class=tv-layers><legend>Show</legend>{labels}</fieldset>"


def frames(run: Run) -> str:
    """The frames of the first pruned answer of a run; empty until it is complete."""
    column = run.pruned[0] if run.columns else None
    if run.error or column is None or column.result is None:
        return ""
    result = column.result
    drawn = result.drawn
    tokens = _tokens(result)
    figures = "".join(_figure(result, step) for step in range(drawn.steps))
    label = f"{drawn.steps} frames of {run.clip.name}. {_KEYS}"
    return (
        f"<h3 class=tv-kept-by>{escape(_title(column))}</h3>{legend(result)}"
        f"<div class=tv-frames tabindex=0 role=group aria-label='{escape(label, quote=True)}' "
        f"data-tokens='{escape(tokens, quote=True)}'>{figures}</div>"
        f"<p class='tv-readout tv-quiet' aria-live=polite data-help='{_HELP}'>{_HELP if tokens else ''}</p>"
    )


def strip(result: Result, most: int = STRIP) -> str:
    """Some frames in a row, with their times and kept tokens."""
    steps = result.drawn.steps
    chosen = sorted({(2 * place + 1) * steps // (2 * min(most, steps)) for place in range(min(most, steps))})
    return "<div class=tv-strip>" + "".join(_figure(result, step) for step in chosen) + "</div>"


def strip_words(result: Result, most: int = STRIP) -> str:
    """How many frames `strip` shows, and how many tokens are kept in all of them.

    The counts above single frames are those of the frame.
    """
    steps = result.drawn.steps
    shown = f"{min(most, steps)} of {steps} frames"
    if result.left is None:
        return shown
    return f"{int(result.left.sum()):,} of {result.left.size:,} tokens kept in {steps} frames; {shown} shown"


def inside_words(result: Result) -> str:
    """That the frames show what a method left inside the language model; empty for any other method."""
    return "after the last cut inside the language model" if result.drawn.cuts else ""


def _title(column: Column) -> str:
    assert column.result is not None
    result = column.result
    answer, drawn = result.answer, result.drawn
    count = 0 if result.left is None else int(result.left.sum())
    segments = f", {len(drawn.segments)} segments" if len(drawn.segments) > 1 else ""
    counts = f"{count:,} of {answer.tokens_before:,} tokens in {drawn.steps} frames{segments}"
    inside = inside_words(result)
    return f"What {column.heading} keeps{f' {inside}' if inside else ''}: {counts}"


def _figure(result: Result, step: int) -> str:
    drawn, left = result.drawn, result.left
    kept = "" if left is None else f"<b>{int(left[step].sum())}/{left[step].size}</b>"
    colour = css(segment_colour(drawn.segment_of(step)))
    return (
        f"<figure><figcaption style='border-color:{colour}'><span>{drawn.times_s[step]:.1f} s</span>{kept}</figcaption>"
        f"{_stack(result, step)}</figure>"
    )


def _stack(result: Result, step: int) -> str:
    over = "".join(f"<img class='over {name}' alt='' src='{images[step]}'>" for name, images in result.layers.items())
    alt = f"frame at {result.drawn.times_s[step]:.1f} s"
    return (
        f"<div class=tv-stack style='aspect-ratio:{result.drawn.aspect:.4f}'>"
        f"<img class=frame alt='{alt}' src='{result.pictures[step]}'>{over}<canvas></canvas></div>"
    )


def legend(result: Result) -> str:
    """What the marks of each layer mean; style sheets show that of the chosen layer."""
    kept = f"<span><i class=tv-cell style='border-color:{css(KEPT_COLOUR)}'></i>kept</span>"
    dropped = "<span><i class='tv-cell dropped'></i>dropped or merged</span>"
    clusters = (
        "<span><i class=tv-cell style='border-color:#4cc9ff'></i>kept: represents its cluster</span>"
        "<span><i class='tv-cell tint'></i>merged into the kept token of its colour</span>"
        "<span><i class='tv-cell dropped'></i>dropped</span>"
    )
    scale = (
        f"<span>0 <i class=tv-scale style='background:{heat_gradient()}'></i> 1: square root of the saliency, as a "
        "fraction of its 99th percentile</span>"
    )
    if "saliency" not in result.layers:
        scale = "<span>This method reads no saliency.</span>"
    line = "<span>line above a frame: its segment; beside the time: tokens kept</span>"
    return (
        f"<p class='tv-layer-legend of-kept'>{kept}{dropped}{line}</p>"
        f"<p class='tv-layer-legend of-clusters'>{clusters}</p><p class='tv-layer-legend of-saliency'>{scale}</p>"
    )


def _tokens(result: Result) -> str:
    """The data of the script: the cluster of every token, -1 for dropped, the kept tokens, and the times.

    Empty for a method that drops tokens inside the language model, which has no clusters of what is left.
    """
    drawn = result.drawn
    if drawn.sources is None or drawn.kept is None or drawn.cuts:
        return ""
    places = [[int(index) for index in place] for place in zip(*drawn.kept.nonzero(), strict=True)]
    data = {"sources": drawn.sources.tolist(), "kept": places, "times": [round(each, 3) for each in drawn.times_s]}
    return json.dumps(data, separators=(",", ":"))
