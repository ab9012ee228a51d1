"""What pictures have in common: no text leaves the figure or covers another, for any model and shape of frames."""

import warnings
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.transforms import Bbox

from tangovlm.inspection import attention, clusters, compare, decay, distribution
from tangovlm.inspection.output import number_size, row_height
from tangovlm.report.scenes import Scene

LONG = "/data/" + "checkpoints-of-a-group/" * 8 + "llava-onevision-qwen2-7b-ov-hf"
SHAPES = [(4, 64, 16.0), (24, 8, 1 / 3), (14, 14, 1.5)]


def drawn(figure: Any) -> Any:
    """Lay out a figure; a layout that fails is only a warning of matplotlib."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FigureCanvasAgg(figure).draw()
    return figure


def texts(figure: Any) -> dict[str, Bbox]:
    """Titles and labels of axes, with their boxes in pixels."""
    found = [figure._suptitle]
    for axes in figure.axes:
        found += [axes.yaxis.label, axes.xaxis.label, axes.title]
    named = {f"{number} {text.get_text()}": text for number, text in enumerate(found) if text.get_text()}
    return {name: text.get_window_extent() for name, text in named.items()}


def check_layout(figure: Any) -> None:
    boxes = list(texts(drawn(figure)).items())
    for name, box in boxes:
        assert box.x0 >= 0, name
        assert box.y0 >= 0, name
        assert box.x1 <= 1000, name
        assert box.y1 <= figure.bbox.y1, name
    for place, (name, box) in enumerate(boxes):
        for other, second in boxes[:place]:
            assert not box.overlaps(second), (name, other)


def scene(height: int, width: int, aspect: float, steps: int = 2) -> Scene:
    pixels = tuple(np.full((30, 40, 3), 90, dtype=np.uint8) for _ in range(steps))
    slots = np.arange(steps * height * width).reshape(steps, height, width) // 3
    kept = np.zeros(slots.shape, dtype=bool)
    kept.reshape(-1)[::3] = True
    return Scene(pixels, tuple(map(float, range(steps))), slots, kept, None, (steps,), aspect)


@pytest.mark.parametrize(("height", "width", "aspect"), SHAPES)
def test_frames_of_any_shape(height: int, width: int, aspect: float) -> None:
    scores = torch.rand(2, height, width, generator=torch.Generator().manual_seed(0))
    kinds = tuple(attention.Saliency.of(kind, scores) for kind in ("mean-query", "attn"))
    of_clip = attention.ClipAttention(LONG, "clip", kinds, scene(height, width, aspect), (3,), 10, ())
    kept = tuple(compare.Kept(name, 0.1, "", scene(height, width, aspect), ()) for name in ("visionzip", "holitom"))
    for figure in (attention.draw(of_clip), compare.draw(compare.Comparison(LONG, "clip", kept, ()))):
        check_layout(figure)
        assert figure.get_size_inches()[1] <= 14


@pytest.mark.parametrize("side", [8, 14])
def test_labels_of_square_frames(side: int) -> None:
    scores = torch.rand(16, side, side, generator=torch.Generator().manual_seed(0))
    kinds = tuple(attention.Saliency.of(kind, scores) for kind in ("p-attn", "attn"))
    check_layout(attention.draw(attention.ClipAttention("m", "clip", kinds, scene(side, side, 1.0, 16), (), 10, ())))


@pytest.mark.parametrize("aspect", [16 / 9, 2.35])
def test_rows_of_wide_frames_are_low_and_hold_their_labels(aspect: float) -> None:
    wide = scene(8, 14, aspect, 16)
    kept = tuple(compare.Kept(name, 0.1, "", wide, ()) for name in compare.METHODS)
    values = {each: {name: np.ones(1) for name in clusters.FIGURES} for each in ("with ST-RoPE", "without ST-RoPE")}
    measured = clusters.MeasuredClusters("m", "tango", values, dict.fromkeys(values, wide), ("c",), ())
    for figure in (compare.draw(compare.Comparison("m", "clip", kept, ())), clusters.draw(measured)):
        rows = [axes for axes in drawn(figure).axes if axes.get_images() and axes.get_ylabel()]
        for above, below in pairwise(rows):
            assert above.bbox.y0 - below.bbox.y1 < 0.85 * above.bbox.height
        for axes in rows:
            assert axes.yaxis.label.get_window_extent().height <= axes.bbox.height + 12


def test_numbers_are_written_where_they_fit() -> None:
    assert number_size((8, 8), 4, 1.0) == 9
    assert number_size((4, 64), 2, 16.0) == 0
    # At 100 pixels per inch, two digits of 5 points are 9 pixels wide.
    for grid, columns, aspect in (((14, 14), 6, 1.0), ((8, 12), 6, 1.5), ((27, 27), 4, 1.0)):
        size = number_size(grid, columns, aspect)
        cell = 100 * min(8.8 / columns, row_height(columns, aspect) * aspect) / grid[1]
        assert size == 0 or 1.3 * size * 100 / 72 <= cell + 1


@pytest.mark.parametrize("length", [9, 96, 729])
def test_ticks_of_shares_differ(length: int) -> None:
    falling = np.linspace(2, 0.5, length)
    kinds = tuple(
        distribution.SortedScores(kind, (falling**power / (falling**power).sum())[None])
        for kind, power in (("attn", 1), ("p-attn", 2))
    )
    measured = distribution.Distribution(LONG, kinds, (1, length), 1, 2, (0.05, 0.1, 0.5), ())
    figure = distribution.draw(measured)
    check_layout(figure)
    left, right = figure.axes
    labels = [label.get_text() for label in left.get_yticklabels()]
    assert len(set(labels)) == len(labels) >= 3
    assert "mean over 1 clip, 2 frames" in " ".join(figure._suptitle.get_text().split())
    assert right.get_xlim() == (0, 1)
    boxes = [note.get_window_extent() for note in right.texts]
    assert not any(box.overlaps(other) for place, box in enumerate(boxes) for other in boxes[:place])
    # No curve is below the diagonal.
    for note, box in zip(right.texts, boxes, strict=True):
        x, y = right.transData.inverted().transform((box.x0, box.y1))
        assert 0 <= y < x, note.get_text()
    assert [note.get_text() for note in right.texts].count("top 5 %") == 1


def test_a_legend_stays_in_its_panel() -> None:
    bases = [10.0 + number for number in range(decay.MOST_BASES)]
    figure = drawn(decay.draw(decay.measure(channels=12, space_bases=bases, seconds=4, cells=4)))
    for axes in figure.axes:
        legend, panel = axes.get_legend().get_window_extent(), axes.get_window_extent()
        assert legend.y0 >= panel.y0
        assert legend.x0 >= panel.x0
    styles = {(line.get_color(), line.get_linestyle()) for line in figure.axes[1].lines}
    assert len(styles) == len(bases)
