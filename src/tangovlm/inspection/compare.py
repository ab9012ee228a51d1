"""What several methods keep of one clip, one row a method.

Shape letters: T steps of the token grid, H, W its rows and columns, K kept tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tangovlm.errors import InputError
from tangovlm.pipeline.frame_source import Progress
from tangovlm.pipeline.load import VideoLLM
from tangovlm.report.overlay import kept_layer, resize
from tangovlm.report.palette import cluster_colours
from tangovlm.report.scenes import Scene

from .clips import ClipSource
from .clusters import check_before
from .output import Row, draw_frame, hide_ticks, label_row, labelled_row, new_figure, set_title, shown_steps

METHODS = ("tango", "fastvid", "holitom", "visionzip", "divprune", "topk")
_WIDTH_PX = 320
"""Width of a frame before it is scaled, so that the outlines of tokens stay visible."""


@dataclass(frozen=True, eq=False)
class Kept:
    """What one method keeps.

    Parameters
    ----------
    method: its name.
    retention: that it was asked for.
    saliency: the kind that it received; "" if it reads none.
    scene: of the clip.
    notes: of the method.
    """

    method: str
    retention: float
    saliency: str
    scene: Scene
    notes: tuple[str, ...]

    @property
    def kept(self) -> npt.NDArray[np.bool_]:
        """``(T, H, W)``: whether a token stands for itself or for its cluster."""
        assert self.scene.kept is not None
        return self.scene.kept

    @property
    def dropped(self) -> npt.NDArray[np.bool_]:
        """``(T, H, W)``: whether a token is in no cluster."""
        assert self.scene.sources is not None
        return self.scene.sources < 0


@dataclass(frozen=True, eq=False)
class Comparison:
    """The result of `measure`.

    Parameters
    ----------
    model, clip: their names.
    methods: what each keeps, in the order that was asked for.
    notes: for the user.
    """

    model: str
    clip: str
    methods: tuple[Kept, ...]
    notes: tuple[str, ...]

    def rows(self) -> list[Row]:
        """One row for each method and step: how many of its tokens are kept, merged and dropped."""
        return [
            {
                "method": each.method,
                "retention": each.retention,
                "saliency": each.saliency,
                "step": step,
                "time_s": time_s,
                "tokens": int(each.kept[step].size),
                "kept": int(each.kept[step].sum()),
                "merged": int((~each.kept[step] & ~each.dropped[step]).sum()),
                "dropped": int(each.dropped[step].sum()),
            }
            for each in self.methods
            for step, time_s in enumerate(each.scene.times_s)
        ]

    def summary(self) -> list[Row]:
        """One row for each method; ``common`` is the fraction of the first method's positions that it keeps too."""
        first = self.methods[0].kept
        return [
            {
                "method": each.method,
                "saliency": each.saliency,
                "kept": int(each.kept.sum()),
                "merged": int((~each.kept & ~each.dropped).sum()),
                "dropped": int(each.dropped.sum()),
                "fewest in a frame": int(each.kept.sum(axis=(1, 2)).min()),
                "most in a frame": int(each.kept.sum(axis=(1, 2)).max()),
                f"common with {self.methods[0].method}": float((each.kept & first).sum() / first.sum()),
            }
            for each in self.methods
        ]


def measure(
    llm: VideoLLM,
    source: ClipSource,
    pruners: Sequence[Any],
    *,
    only_supported: bool = False,
    progress: Progress | None = None,
) -> Comparison:
    """Let several methods choose among the tokens of the first clip.

    Parameters
    ----------
    pruners: methods before the language model.
    only_supported: leave out methods that need a signal that the family does not provide, with a note.

    Raises
    ------
    InputError: no methods; see `clusters.check_before`.
    ModelError: a signal that the model does not provide.
    VideoError: the clip cannot be decoded.
    """
    if not pruners:
        raise InputError("no methods are given: name some, such as tango and topk")
    for pruner in pruners:
        check_before(pruner)
    clip = source.only(llm, progress)
    signals, kept, left_out = llm.family.signals, [], []
    for pruner in pruners:
        if only_supported and (missing := sorted(signals.readable(pruner) - signals.provides)):
            left_out.append(f"{pruner.name} is left out: the family {llm.family.name} does not provide {missing[0]}")
            continue
        record = clip.record(pruner)
        reads = "saliency" in signals.readable(pruner)
        kind = signals.resolve_saliency(getattr(pruner, "signal", None)) if reads else ""
        scene = clip.scene(record)
        kept.append(Kept(pruner.name, float(pruner.retention), kind, scene, record.report.notes))
    notes = dict.fromkeys(
        [*source.notes, *clip.notes, *left_out, *(f"{each.method}: {note}" for each in kept for note in each.notes)]
    )
    return Comparison(llm.name, clip.name, tuple(kept), tuple(notes))


def draw(measured: Comparison, frames: int = 6) -> Any:
    """A figure of matplotlib: kept tokens bright, merged ones in the colour of their cluster, dropped ones dark."""
    scene = measured.methods[0].scene
    shown = shown_steps(scene.steps, frames)
    side, _, horizontal = labelled_row(len(shown), scene.aspect, 2)
    # The counts below a row need a line, for which high rows shrink a little.
    figure = new_figure(0.9 + (side + (0.3 if horizontal else 0.1)) * (len(measured.methods) + 1))
    grid = figure.subplots(len(measured.methods) + 1, len(shown), squeeze=False)
    for axes, step in zip(grid[0], shown, strict=True):
        picture = scene.images[step]
        draw_frame(axes, picture, picture.shape[:2], aspect=scene.aspect)
        axes.set_title(f"{scene.times_s[step]:.2f} s", fontsize=9)
        hide_ticks(axes)
    label_row(grid[0][0], "frame", 9, horizontal=horizontal)
    for each, row in zip(measured.methods, grid[1:], strict=True):
        drawn = each.scene
        assert drawn.sources is not None
        assert drawn.kept is not None
        colours = cluster_colours(drawn.slots)
        for axes, step in zip(row, shown, strict=True):
            picture = resize(drawn.images[step], _WIDTH_PX)
            layer = kept_layer(picture, drawn.sources[step], drawn.kept[step], colours)
            draw_frame(axes, layer, layer.shape[:2], aspect=drawn.aspect)
            axes.set_xlabel(f"{int(drawn.kept[step].sum())} of {drawn.kept[step].size}", fontsize=8, labelpad=2)
            hide_ticks(axes)
        label_row(row[0], f"{each.method}\n{int(drawn.kept.sum())} of {drawn.kept.size}", 9, horizontal=horizontal)
    words = "kept tokens (outlined), merged ones (in the colour of their cluster), dropped ones (dark)"
    set_title(figure, measured.model, words)
    return figure
