"""The frames of the page, with what is drawn over them, its legend and its controls."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ..embed import jpegs, png
from ..exchange import percent
from ..overlay import saliency_cells
from ..palette import heat_gradient
from ..scenes import KeptSet, Scene
from .kept_sets import token_data
from .tables import layer_range

SEGMENT_COLOURS = 4
"""Number of colours of segments in the style sheet."""
_CAPTION = 500
"""Upper bound of the length of a figure without its pictures."""
_HELP = (
    "Point at a token, or tap it, to see its cluster in every frame. By keyboard: arrow keys go from token to token, "
    "Page Up and Page Down from frame to frame, Escape ends."
)


def frames_section(scene: Scene, limit: int, *, at_most: bool = False, layers: int = 0) -> str:
    """The frames with their layers.

    Parameters
    ----------
    limit: bytes that bound the length of the section; the JPEG pictures are as large as it permits.
    at_most: whether retentions are upper bounds.
    layers: number of layers of the language model, if the method prunes inside it.
    """
    shown = {"frame": "Frames"}
    if scene.saliency is not None:
        shown["saliency"] = "Saliency"
    if scene.sets:
        shown["kept"] = "Kept tokens"
    chosen = list(shown)[-1]
    radios = "".join(
        f"<input type=radio class=choice name=layer id=layer-{layer}{' checked' if layer == chosen else ''}>"
        for layer in shown
    )
    labels = "".join(f"<label for=layer-{layer}>{name}</label>" for layer, name in shown.items())
    switch = f"<div class=choices>{labels}</div>" if len(shown) > 1 else ""
    controls = _controls(scene, at_most, layers) if scene.sets else ""
    legend = (_saliency_legend() if scene.saliency is not None else "") + (_kept_legend(scene) if scene.sets else "")
    script = _tokens(scene, at_most, layers) if scene.sets else ""
    over = _saliency(scene)
    used = sum(map(len, (radios, switch, controls, legend, script, *over))) + scene.steps * _CAPTION
    pictures = jpegs(scene.images, scene.aspect, limit - used)
    figures = "".join(_figure(scene, step, picture, over[step]) for step, picture in enumerate(pictures))
    return (
        f"<section>{radios}{switch}{controls}{legend}<div class=frames>{figures}</div>"
        f"{_readout() if scene.sets else ''}{script}</section>"
    )


def retention_label(retention: float, at_most: bool) -> str:
    """`10 %` or `at most 10 %`."""
    return f"at most {percent(retention)}" if at_most else percent(retention)


def _controls(scene: Scene, at_most: bool, layers: int) -> str:
    """Sliders over retentions and over groups of layers, what they are set to, and the timeline."""
    answered = next(place for place, each in enumerate(scene.sets) if each.answered)
    sliders = ""
    if len(scene.sets) > 1:
        labels = [percent(each.retention) for each in scene.sets]
        name = "Retention, at most" if at_most else "Retention"
        sliders += _slider("retention", name, labels, answered, [each.answered for each in scene.sets])
    if scene.cuts:
        starts = [0, *(cut.layer for cut in scene.cuts)]
        ends = [*(cut.layer - 1 for cut in scene.cuts), layers - 1]
        labels = [layer_range(first, last) for first, last in zip(starts, ends, strict=True)]
        sliders += _slider("layers", "Read by", labels, 0, [])
    impossible = "".join(
        f"<p class=quiet>Not possible at {percent(retention)}: {escape(reason)}</p>"
        for retention, reason in scene.impossible
    )
    return (
        f"<div class='controls of-kept'>{sliders}<p id=state aria-live=polite>{_state(scene.sets[answered])}</p>"
        f"{impossible}<div id=timeline role=img></div></div>"
    )


def _slider(name: str, label: str, ticks: Sequence[str], value: int, marked: Sequence[bool]) -> str:
    marks = [*marked, *[False] * (len(ticks) - len(marked))]
    spans = "".join(
        f"<span{' class=marked' if mark else ''} style='--at:{place / (len(ticks) - 1):.4f}'>{tick}</span>"
        for place, (tick, mark) in enumerate(zip(ticks, marks, strict=True))
    )
    return (
        f"<div class=slider><label for={name}>{label}</label>"
        f"<div class=rail><input type=range id={name} min=0 max={len(ticks) - 1} step=1 value={value} "
        f"aria-valuetext='{ticks[value]}'><div class=ticks aria-hidden=true>{spans}</div></div></div>"
    )


def _state(kept_set: KeptSet) -> str:
    """What the script replaces."""
    kept = f"{kept_set.slots} of {kept_set.kept.size} tokens enter the language model."
    return f"{kept} Which ones is drawn by a script, which this viewer has not run."


def _readout() -> str:
    return f"<p id=help class=quiet>{_HELP}</p><p id=readout aria-live=polite></p>"


def _kept_legend(scene: Scene) -> str:
    items = {"all": "kept: the picture"}
    if scene.slots < scene.sets[0].kept.size:
        items = {
            "kept": "kept: the picture, outlined in the colour of its cluster",
            "merged": "merged into the kept token of the same colour",
        }
    items["dropped"] = "dropped"
    if scene.cuts:
        items["cut"] = "dropped, or merged into others, just before these layers"
    parts = "".join(f"<span><i class='swatch {name}'></i>{words}</span>" for name, words in items.items())
    _, rows, columns = scene.sets[0].sources.shape
    size = f"<span>one square: one token, {columns} × {rows} in a frame</span>"
    return f"<p class='legend of-kept'>{parts}{size}</p>"


def _saliency_legend() -> str:
    scale = f"<span>0 <i class=scale style='background:{heat_gradient()}'></i> 1</span>"
    words = "square root of the saliency, as a fraction of its 99th percentile; above that 1"
    return f"<p class='legend of-saliency'>{scale}<span>{words}</span></p>"


def _saliency(scene: Scene) -> list[str]:
    if scene.saliency is None:
        return [""] * scene.steps
    return [f"<img class='over saliency' alt='' src='{png(saliency_cells(each))}'>" for each in scene.saliency]


def _figure(scene: Scene, step: int, picture: str, over: str) -> str:
    segment = scene.segment_of(step)
    kept = "" if scene.kept is None else f"{int(scene.kept[step].sum())} of {scene.kept[step].size}"
    focus = f" tabindex={-1 if step else 0} role=group aria-describedby=help" if scene.sets else ""
    canvases = "<canvas class='over kept'></canvas><canvas class='over marks'></canvas>" if scene.sets else ""
    return (
        f"<figure><figcaption class=segment-{segment % SEGMENT_COLOURS}>"
        f"<span>{scene.times_s[step]:.2f} s</span><span class='quiet name'>segment {segment + 1}</span>"
        f"<span class=count>{kept}</span></figcaption><div class=stack{focus} aria-label='frame {step + 1}'>"
        f"<img class=frame alt='frame {step + 1} at {scene.times_s[step]:.2f} s' src='{picture}'>{over}{canvases}"
        "</div></figure>"
    )


def _tokens(scene: Scene, at_most: bool, layers: int) -> str:
    """The data of the script."""
    labels = [retention_label(each.retention, at_most) for each in scene.sets]
    return f"<script type=application/json id=tokens>{token_data(scene, labels, layers)}</script>"
