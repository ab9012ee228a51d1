"""The clusters into which a method merges tokens: drawn over frames, and into how many pieces they fall.

Clusters of similar tokens may be scattered over the frames; ST-RoPE makes them compact (Tango paper, arXiv 2604.09547).
A cluster is a kept token with the tokens of two or more grid positions. Two of its tokens are connected if they are
neighbours in a row or a column, or at the same position in adjacent steps; a piece is a connected component.

Shape letters: T steps of the token grid, H, W its rows and columns, K kept tokens, C clips.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from tangovlm.errors import InputError
from tangovlm.evaluate.statistics import Bootstrap, Estimate
from tangovlm.methods.build import Method
from tangovlm.pipeline.frame_source import Progress
from tangovlm.pipeline.load import VideoLLM
from tangovlm.report.plot import SERIES_COLOURS
from tangovlm.report.scenes import Scene

from .clips import ClipSource
from .merging import listed, merging_retention
from .output import (
    Row,
    counted,
    draw_frame,
    grey,
    hide_ticks,
    label_row,
    labelled_row,
    new_figure,
    number_size,
    outlined,
    set_title,
    shown_steps,
)
from .pieces import Ints, cluster_slots, piece_of_token
from .recording import RecordedClip

Floats = npt.NDArray[np.float64]
FIGURES = {
    "pieces": "pieces of a cluster",
    "whole": "fraction of the clusters that are one piece",
    "largest": "fraction of a cluster's tokens in its largest piece",
    "tokens": "tokens of a cluster",
    "clusters": "clusters of a clip",
}
"""What is measured of each clip: means over its clusters, and their number."""
_COLOURED = 6
"""The largest clusters, which are filled."""


@dataclass(frozen=True, eq=False)
class MeasuredClusters:
    """The result of `measure`.

    Parameters
    ----------
    model: its name.
    method: name and retention.
    values: for each variant of the method, each of `FIGURES` to ``(C,)``; NaN for a clip without clusters.
    scenes: the first clip, as each variant keeps it.
    clips: names of the clips.
    notes: for the user.
    """

    model: str
    method: str
    values: dict[str, dict[str, Floats]]
    scenes: dict[str, Scene]
    clips: tuple[str, ...]
    notes: tuple[str, ...]

    def rows(self) -> list[Row]:
        """One row for each variant and clip."""
        return [
            {"variant": variant, "clip": clip, **{name: float(values[name][number]) for name in FIGURES}}
            for variant, values in self.values.items()
            for number, clip in enumerate(self.clips)
        ]

    def summary(self) -> list[Row]:
        """Means over the clips with 95 % intervals if there are enough, of each variant and of their difference."""
        rows = [
            self._estimate(variant, name, self.values[variant][name]) for variant in self.values for name in FIGURES
        ]
        if len(self.values) == 2:
            (one, first), (other, second) = self.values.items()
            rows += [self._estimate(f"{one} minus {other}", name, first[name] - second[name]) for name in FIGURES]
        return rows

    def _estimate(self, variant: str, name: str, values: Floats) -> Row:
        known = ~np.isnan(values)
        estimate = Estimate(float("nan"), None, None)
        if known.any():
            estimate = Bootstrap(np.flatnonzero(known).tolist()).mean(values[known])
        return {
            "variant": variant,
            "figure": FIGURES[name],
            "clips": int(known.sum()),
            "mean": estimate.value,
            "low": estimate.low,
            "high": estimate.high,
        }


def measure(llm: VideoLLM, source: ClipSource, pruner: Method, *, progress: Progress | None = None) -> MeasuredClusters:
    """Merge the tokens of some clips, with and without ST-RoPE if the method has it.

    Parameters
    ----------
    pruner: a method before the language model.

    Raises
    ------
    InputError: see `check_before`; a method that merges no tokens of these clips, with a retention at which it does.
    ModelError: a signal that the model does not provide.
    VideoError: a clip that cannot be decoded.
    """
    check_before(pruner)
    variants = variants_of(pruner)
    found: dict[str, list[dict[str, float]]] = {variant: [] for variant in variants}
    scenes: dict[str, Scene] = {}
    names, notes = [], dict.fromkeys(source.notes)
    first: RecordedClip | None = None
    for clip in source.clips(llm, progress):
        first = first or clip
        names.append(clip.name)
        notes |= dict.fromkeys(clip.notes)
        for variant, each in variants.items():
            record = clip.record(each)
            found[variant].append(figures_of(record.selection.sources))
            notes |= dict.fromkeys(record.report.notes)
            if variant not in scenes:
                scenes[variant] = clip.scene(record)
    values = {
        variant: {name: np.array([clip[name] for clip in clips]) for name in FIGURES}
        for variant, clips in found.items()
    }
    for variant, each in values.items():
        if not each["clusters"].any():
            assert first is not None
            lower = merging_retention(first, variants.values())
            raise InputError(
                f"{listed(names)}: {pruner.name} at retention {pruner.retention:g} ({variant}) merges no tokens of "
                "different positions, so that there are no clusters: choose "
                + ("a method that merges them" if lower is None else f"a lower retention, such as {lower:g}")
            )
    method = f"{pruner.name}, retention {pruner.retention:g}"
    return MeasuredClusters(llm.name, method, values, scenes, tuple(names), tuple(notes))


def check_before(pruner: Method) -> None:
    """Raise `InputError` unless a method chooses all tokens before the language model."""
    if getattr(pruner, "stage", "pre-llm") != "pre-llm":
        raise InputError(
            f"the method {pruner.name!r} drops tokens inside the language model, which does not run here: choose a "
            "method before it, such as tango"
        )


def variants_of(pruner: Any) -> Mapping[str, Any]:
    """A method with and without ST-RoPE, or the method alone if it has none."""
    if not any(field.name == "st_rope" for field in fields(pruner)):
        return {pruner.name: pruner}
    return {"with ST-RoPE": replace(pruner, st_rope=True), "without ST-RoPE": replace(pruner, st_rope=False)}


def figures_of(sources: Tensor) -> dict[str, float]:
    """`FIGURES` of the clusters of one clip.

    Parameters
    ----------
    sources: ``(T, H, W)`` int64, the slot of each token, -1 for dropped; see `tangovlm.tokens.Selection`.
    """
    slots = sources.cpu().numpy()
    pieces = piece_of_token(slots)
    positions = np.broadcast_to(np.arange(slots[0].size).reshape(slots[0].shape), slots.shape)
    counts, wholes, largest, sizes = [], [], [], []
    for slot in cluster_slots(slots, positions):
        members = pieces[slots == slot]
        _, of_piece = np.unique(members, return_counts=True)
        counts.append(len(of_piece))
        wholes.append(float(len(of_piece) == 1))
        largest.append(of_piece.max() / len(members))
        sizes.append(len(members))
    means = (float(np.mean(values)) if values else float("nan") for values in (counts, wholes, largest, sizes))
    return dict(zip(FIGURES, (*means, float(len(counts))), strict=True))


def draw(measured: MeasuredClusters, frames: int = 5) -> Any:
    """A figure of matplotlib: the clusters of the first clip over its frames, and the figures of all clips."""
    variants = list(measured.scenes)
    first = measured.scenes[variants[0]]
    shown = shown_steps(first.steps, frames)
    side, width_in, horizontal = labelled_row(len(shown), first.aspect, 4)
    side += 0.1 if horizontal else 0
    figure = new_figure(1.2 + side * len(variants) + 2.4)
    above, below = figure.subfigures(2, 1, height_ratios=(side * len(variants) + 0.7, 2.4))
    grid = above.subplots(len(variants), len(shown), squeeze=False)
    for variant, row in zip(variants, grid, strict=True):
        scene = measured.scenes[variant]
        assert scene.sources is not None
        largest = _largest(scene.sources)
        pieces = piece_of_token(scene.sources)
        for axes, step in zip(row, shown, strict=True):
            size = number_size(scene.sources.shape[1:], len(shown), scene.aspect, width_in)
            _draw_clusters(axes, scene, step, largest, size)
            if variant == variants[0]:
                axes.set_title(f"{scene.times_s[step]:.2f} s", fontsize=9)
        listed = [str(len(np.unique(pieces[scene.sources == slot]))) for slot in largest]
        label = f"{variant}\npieces of clusters\n1 to {len(listed)}:\n{', '.join(listed)}"
        label_row(row[0], label, 8, horizontal=horizontal)
    _draw_figures(below, measured)
    words = f"{measured.method}: the {_COLOURED} clusters with most tokens, and borders of all"
    set_title(figure, measured.model, words)
    return figure


def _largest(slots: Ints) -> list[int]:
    """The clusters with most tokens, in descending order; ties go to the lowest slot."""
    positions = np.broadcast_to(np.arange(slots[0].size).reshape(slots[0].shape), slots.shape)
    clusters = cluster_slots(slots, positions)
    sizes = np.array([(slots == slot).sum() for slot in clusters])
    order = np.argsort(-sizes, kind="stable")[:_COLOURED]
    return [int(clusters[place]) for place in order]


def _draw_clusters(axes: Any, scene: Scene, step: int, largest: list[int], size: float) -> None:
    from matplotlib.colors import to_rgba

    assert scene.sources is not None
    slots = scene.sources[step]
    draw_frame(axes, grey(scene.images[step]), (slots.shape[0], slots.shape[1]), scene.aspect)
    layer = np.zeros((*slots.shape, 4))
    layer[slots < 0] = (0, 0, 0, 0.75)
    pieces = piece_of_token(slots[None])[0]
    for number, slot in enumerate(largest):
        layer[slots == slot] = to_rgba(SERIES_COLOURS[number % len(SERIES_COLOURS)], 0.7)
        # Without room for numbers, the colours name the clusters.
        for piece in np.unique(pieces[slots == slot]) if size else ():
            row, column = _middle(np.argwhere(pieces == piece))
            axes.text(column, row, str(number + 1), ha="center", va="center", fontsize=size, **outlined())
    axes.imshow(layer, aspect=axes.get_aspect())
    _draw_borders(axes, slots)
    hide_ticks(axes)


def _middle(tokens: Ints) -> tuple[int, int]:
    """The row and column of tokens ``(n, 2)`` that are nearest to the mean."""
    nearest = ((tokens - tokens.mean(axis=0)) ** 2).sum(axis=1).argmin()
    return int(tokens[nearest][0]), int(tokens[nearest][1])


def _draw_borders(axes: Any, slots: Ints) -> None:
    """Lines between tokens of different slots."""
    from matplotlib.collections import LineCollection

    rows, columns = np.nonzero(slots[:, 1:] != slots[:, :-1])
    lines = [[(c + 0.5, r - 0.5), (c + 0.5, r + 0.5)] for r, c in zip(rows, columns, strict=True)]
    rows, columns = np.nonzero(slots[1:] != slots[:-1])
    lines += [[(c - 0.5, r + 0.5), (c + 0.5, r + 0.5)] for r, c in zip(rows, columns, strict=True)]
    axes.add_collection(LineCollection(lines, colors="white", linewidths=0.8))


def _draw_figures(below: Any, measured: MeasuredClusters) -> None:
    """Means of all clips with their intervals, one panel for each of the first four figures."""
    names = list(FIGURES)[:4]
    estimates = {(row["variant"], row["figure"]): row for row in measured.summary()}
    for axes, name in zip(below.subplots(1, len(names)), names, strict=True):
        for place, variant in enumerate(measured.values):
            row = estimates[variant, FIGURES[name]]
            colour = SERIES_COLOURS[place]
            axes.barh(-place, row["mean"], color=colour, alpha=0.7, height=0.7)
            if row["low"] is not None:
                axes.plot([row["low"], row["high"]], [-place, -place], color="black", linewidth=2)
            axes.text(0, -place, f" {row['mean']:.2f}", va="center", fontsize=9, **outlined())
        axes.set_yticks([])
        axes.set_xlabel(_broken(FIGURES[name]), fontsize=8)
        axes.tick_params(labelsize=8)
        if name == names[0]:
            axes.set_yticks([-place for place in range(len(measured.values))], list(measured.values), fontsize=8)
    interval = ", 95 % interval over clips" if next(iter(estimates.values()))["low"] is not None else ""
    below.suptitle(f"mean over {counted(len(measured.clips), 'clip')}{interval}", fontsize=9)


def _broken(words: str) -> str:
    """A title in two lines."""
    middle = words.rfind(" ", 0, len(words) // 2 + 6)
    return words if len(words) < 24 else f"{words[:middle]}\n{words[middle + 1 :]}"
