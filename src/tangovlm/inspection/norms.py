"""Norms of the hidden states of a vision encoder: along its layers, along the steps of one layer, and at quantiles.

Attention sinks may have much larger hidden states than other tokens (Tango paper, arXiv 2604.09547, which compares
norms along a block and magnitudes at quantiles). The norm of a token is the mean of the norms of its patches, weighted
as the family's saliency is.

Shape letters: F steps of all clips, H, W rows and columns of the grid, L = H * W.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tangovlm.budget import count
from tangovlm.errors import InputError, ModelError
from tangovlm.methods.common.selection import top_per_frame
from tangovlm.models.common.family import Family
from tangovlm.models.common.signals import ReadPoint, SignalParts
from tangovlm.models.common.sinks import SINK_THRESHOLD, SinkRanks
from tangovlm.pipeline.frame_source import Progress
from tangovlm.pipeline.load import VideoLLM
from tangovlm.report.plot import SERIES_COLOURS

from .attention import kinds_of, sinks_of
from .clips import ClipSource
from .distribution import check_grid
from .output import Row, counted, heat_map, new_figure, set_title
from .sinks import FEW_CLIPS

Floats = npt.NDArray[np.float64]
QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
TOP = 0.1
"""Fraction of the tokens of a frame in the group "top"."""
_LAYER, _STEP = "layer", "step"
_MOST_TICKS = 16


@dataclass(frozen=True, eq=False)
class TokenNorms:
    """The result of `measure`.

    Parameters
    ----------
    model: its name.
    kind: the saliency by which tokens are grouped.
    layers: name of each point along the layers to norms ``(F, H, W)``: "input" and the numbers of the layers.
    block: the layer whose steps were read.
    steps: name of each step of that layer to norms ``(F, H, W)``, in the order in which they are computed.
    groups: name of each group to its tokens, ``(F, H, W)`` bool.
    sinks: sink positions ``h * W + w``, empty if there are none.
    clips: number of clips.
    notes: for the user.
    """

    model: str
    kind: str
    layers: dict[str, Floats]
    block: int
    steps: dict[str, Floats]
    groups: dict[str, npt.NDArray[np.bool_]]
    sinks: tuple[int, ...]
    clips: int
    notes: tuple[str, ...]

    def quantiles(self, norms: Floats, group: str) -> Floats:
        """Norms of a group at `QUANTILES`."""
        found: Floats = np.quantile(norms[self.groups[group]], QUANTILES)
        return found

    def rows(self) -> list[Row]:
        """One row for each point and group: mean, standard deviation and quantiles of the norms of its tokens."""
        points = [(_LAYER, name, norms) for name, norms in self.layers.items()]
        points += [(f"{_STEP} of layer {self.block}", name, norms) for name, norms in self.steps.items()]
        return [self._row(*point, group) for point in points for group in self.groups]

    def _row(self, where: str, name: str, norms: Floats, group: str) -> Row:
        values = norms[self.groups[group]]
        quantiles = zip(QUANTILES, self.quantiles(norms, group), strict=True)
        return {
            "where": where,
            "point": name,
            "group": group,
            "tokens": int(values.size),
            "mean": float(values.mean()),
            "sd": float(values.std()),
            **{f"q{100 * quantile:g}": float(value) for quantile, value in quantiles},
        }

    def summary(self) -> list[Row]:
        """The groups after the last layer: number of tokens, and norms at quantiles."""
        name, norms = list(self.layers.items())[-1]
        return [{"layer": name, **self._row(_LAYER, name, norms, group)} for group in self.groups]


def measure(
    llm: VideoLLM,
    source: ClipSource,
    *,
    block: int | None = None,
    sinks: Sequence[int] | None = None,
    threshold: float = SINK_THRESHOLD,
    progress: Progress | None = None,
) -> TokenNorms:
    """Read the norms of all tokens of some clips.

    Parameters
    ----------
    block: the layer whose steps are read, counted from 1; None for the one that the saliency is taken from.
    sinks: positions of sinks; None for those that are known of the family, else those found in these clips.
    threshold: to find sinks, see `models.common.sinks.SinkRanks.sinks`.

    Raises
    ------
    InputError: no such layer, sinks outside the grid, or clips whose grids differ.
    ModelError: the family does not define where its encoder's values are on the grid.
    VideoError: a clip that cannot be decoded.
    """
    layers = tower_layers(llm.family)
    own = saliency_layer(llm.family, layers)
    number = own if block is None else block
    if not 1 <= number <= len(layers):
        raise InputError(f"the block is {number}: the vision encoder has layers 1 to {len(layers)}")
    points = _points(layers, layers[number - 1])
    kind, grid = kinds_of(llm)[0], None
    saliency: list[Tensor] = []
    norms: dict[str, list[Floats]] = defaultdict(list)
    ranks, known = SinkRanks(), None
    clip_notes: list[str] = []
    for clip in source.clips(llm, progress):
        clip_notes += clip.notes
        collected: SignalParts = defaultdict(list)
        hooks = llm.family.signals.value_hooks(collected, points, _norm)
        tokens = clip.tokens([kind], hooks)[kind]
        assert tokens.saliency is not None
        check_grid(clip.name, (tokens.height, tokens.width), grid)
        grid = (tokens.height, tokens.width)
        saliency.append(tokens.saliency.float().cpu())
        ranks.add(saliency[-1])
        known = sinks_of(tokens, sinks)
        for name, parts in collected.items():
            norms[name].append(_joined(llm.family.signals.join(parts)))
    joined = {name: np.concatenate(parts) for name, parts in norms.items()}
    positions, notes = _sinks(known, ranks, threshold, source)
    return TokenNorms(
        model=llm.name,
        kind=kind,
        layers={name: joined[f"{_LAYER} {name}"] for name in ("input", *map(str, range(1, len(layers) + 1)))},
        block=number,
        steps={name.removeprefix(f"{_STEP} "): each for name, each in joined.items() if name.startswith(_STEP)},
        groups=_groups(torch.cat(saliency), positions),
        sinks=positions,
        clips=source.count,
        notes=(*source.notes, *clip_notes, *notes),
    )


def tower_layers(family: Family) -> nn.ModuleList:
    """The layers of a family's vision encoder, one of which its signals are read from.

    Raises
    ------
    ModelError: the signals are not read from a layer.
    """
    read = _read_modules(family)
    lists = (module for module in family.encoder.modules() if isinstance(module, nn.ModuleList))
    for layers in lists:
        if any(module in read for module in layers.modules()):
            return layers
    raise ModelError(f"the family {family.name} reads its signals from no layer of the vision encoder")


def saliency_layer(family: Family, layers: nn.ModuleList) -> int:
    """The number of the layer that the signals are read from, counted from 1."""
    read = _read_modules(family)
    return next(number for number, layer in enumerate(layers, 1) if any(part in read for part in layer.modules()))


def _read_modules(family: Family) -> set[nn.Module]:
    signals = family.signals
    needs = frozenset({"keys"}) if "keys" in signals.provides else frozenset({"saliency"})
    return {hook.module for hook in signals.hooks(defaultdict(list), needs, "attn")}


def _points(layers: nn.ModuleList, block: nn.Module) -> list[ReadPoint]:
    """Where norms are read: before the first layer, after each, and after each part of one that has weights."""
    points = [ReadPoint(f"{_LAYER} input", layers[0], before=True)]
    points += [ReadPoint(f"{_LAYER} {number}", layer) for number, layer in enumerate(layers, 1)]
    points.append(ReadPoint(f"{_STEP} input", block, before=True))
    parts = [(name, part) for name, part in block.named_children() if any(True for _ in part.parameters())]
    points += [ReadPoint(f"{_STEP} {name}", part) for name, part in parts]
    points.append(ReadPoint(f"{_STEP} output", block))
    return points


def _norm(hidden: Tensor) -> Tensor:
    return hidden.float().norm(dim=-1)


def _joined(values: Tensor | list[Tensor]) -> Floats:
    """Norms ``(T, H, W)`` of the steps of a clip."""
    stacked = torch.stack(values) if isinstance(values, list) else values
    joined: Floats = stacked.double().cpu().numpy()
    return joined


def _sinks(
    known: tuple[int, ...] | None, ranks: SinkRanks, threshold: float, source: ClipSource
) -> tuple[tuple[int, ...], list[str]]:
    """The sinks, and what the user should know about them."""
    if known:
        return known, []
    found = ranks.sinks(threshold)
    if not found:
        return (), [f"no position is a sink (mean rank minus SD at least {threshold:g}): there is no group of sinks"]
    notes = [f"sinks were found in these clips (mean rank minus SD at least {threshold:g})"]
    if source.count < FEW_CLIPS:
        notes.append(f"with fewer than {FEW_CLIPS} clips, content in the same place of all clips looks like a sink")
    return found, notes


def _groups(saliency: Tensor, sinks: tuple[int, ...]) -> dict[str, npt.NDArray[np.bool_]]:
    """Tokens of each group, ``(F, H, W)``."""
    flat = saliency.flatten(1)
    top = top_per_frame(flat, [count(TOP, flat.shape[1])] * len(flat)).view(saliency.shape).numpy()
    groups = {"top": top, "rest": ~top}
    if sinks:
        is_sink = torch.zeros(flat.shape, dtype=torch.bool)
        is_sink[:, list(sinks)] = True
        sink = is_sink.view(saliency.shape).numpy()
        groups = {"sink": sink, "other": ~sink} | groups
    return groups


def draw(measured: TokenNorms) -> Any:
    """A figure of matplotlib: norms along the layers and along the steps of one, and their distribution at the end."""
    figure = new_figure(7.6)
    above, below = figure.subplots(2, 2)
    panels = (
        (above[0], measured.layers, "after layer"),
        (above[1], measured.steps, f"step of layer {measured.block}"),
    )
    for axes, points, title in panels:
        for number, group in enumerate(measured.groups):
            _draw_line(axes, measured, points, group, number)
        each = -(-len(points) // _MOST_TICKS)
        rotation = 0 if max(map(len, points)) < 6 else 30
        axes.set_xticks(range(0, len(points), each), list(points)[::each], rotation=rotation, fontsize=8)
        axes.set(xlabel=title, ylabel="norm of the hidden state")
        axes.set_ylim(0)
        axes.grid(alpha=0.3)
    above[0].legend(frameon=False, fontsize=8, title="median, 5 % to 95 % of the tokens", title_fontsize=8)
    name, norms = list(measured.layers.items())[-1]
    positions = np.array([100 * quantile for quantile in QUANTILES])
    for number, group in enumerate(measured.groups):
        line = _style(number)
        below[0].plot(range(len(positions)), measured.quantiles(norms, group), marker="o", markersize=4, **line)
    below[0].set_xticks(range(len(positions)), [f"{position:g}" for position in positions])
    below[0].set(xlabel=f"quantile of the tokens after layer {name}, in percent", ylabel="norm of the hidden state")
    below[0].set_ylim(0)
    below[0].grid(alpha=0.3)
    mean = norms.mean(axis=0)
    drawn = below[1].imshow(mean, cmap=heat_map())
    for position in measured.sinks:
        below[1].plot(position % mean.shape[1], position // mean.shape[1], "x", color="white")
    below[1].set(xlabel="column", ylabel="row", title=f"mean norm at each position after layer {name}")
    below[1].title.set_fontsize(9)
    for axis in (below[1].xaxis, below[1].yaxis):
        axis.get_major_locator().set_params(integer=True)
    figure.colorbar(drawn, ax=below[1], label="norm of the hidden state")
    clips = counted(measured.clips, "clip")
    words = f"norms in the vision encoder, {clips}; top: the tenth of a frame with the highest {measured.kind}"
    set_title(figure, measured.model, words)
    return figure


def _draw_line(axes: Any, measured: TokenNorms, points: dict[str, Floats], group: str, number: int) -> None:
    at = {quantile: place for place, quantile in enumerate(QUANTILES)}
    values = np.stack([measured.quantiles(norms, group) for norms in points.values()])
    line = _style(number)
    axes.plot(range(len(values)), values[:, at[0.5]], marker="o", markersize=4, label=group, **line)
    axes.fill_between(range(len(values)), values[:, at[0.05]], values[:, at[0.95]], alpha=0.15, color=line["color"])


def _style(number: int) -> dict[str, Any]:
    return {"color": SERIES_COLOURS[number], "linestyle": ("-", "--", "-.", ":")[number % 4], "linewidth": 1.6}
