"""Layers over a frame."""

from itertools import combinations

import numpy as np
import pytest

from tangovlm.report.colours import OKABE_ITO, css
from tangovlm.report.overlay import kept_layer, resize, saliency_layer, spread
from tangovlm.report.palette import cluster_colours, heat_colours, segment_colour
from tangovlm.report.plot import SERIES_COLOURS
from tests.report.page.test_style import VISION, lab, linear

PICTURE = np.random.default_rng(0).integers(60, 256, (40, 60, 3), dtype=np.uint8)
SOURCES = np.array([[0, 0, -1], [1, -1, 1]])
KEPT = np.array([[True, False, False], [False, False, True]])
COLOURS = np.array([[255, 0, 0], [0, 0, 255]], dtype=np.uint8)


@pytest.fixture
def layer() -> np.ndarray:
    return kept_layer(PICTURE, SOURCES, KEPT, COLOURS)


def test_kept_tokens_show_the_frame_in_a_rim_of_their_colour(layer: np.ndarray) -> None:
    assert (layer[2:18, 2:18] == PICTURE[2:18, 2:18]).all()
    assert (layer[0, :20] == COLOURS[0]).all()
    assert (layer[20:40, 59] == COLOURS[1]).all()


def test_merged_tokens_are_dim_and_tinted(layer: np.ndarray) -> None:
    red, _, blue = layer[:20, 20:40].astype(int).mean(axis=(0, 1))
    assert red > blue + 40
    assert layer[:20, 20:40].mean() < PICTURE.mean()


def test_dropped_tokens_are_dark_and_grey(layer: np.ndarray) -> None:
    dropped = layer[:20, 40:60].astype(int)
    assert (dropped.max(axis=-1) == dropped.min(axis=-1)).all()
    assert dropped.mean() < layer[:20, 20:40].mean() / 1.5


def test_layers_leave_the_frame_alone() -> None:
    before = PICTURE.copy()
    kept_layer(PICTURE, SOURCES, KEPT, COLOURS)
    saliency_layer(PICTURE, np.zeros((2, 3)))
    assert np.array_equal(PICTURE, before)


def test_nothing_kept() -> None:
    layer = kept_layer(PICTURE, np.full((2, 3), -1), np.zeros((2, 3), dtype=bool), cluster_colours(0))
    assert layer.shape == PICTURE.shape
    assert layer.max() < 50


def test_saliency_is_bright_where_it_is_high() -> None:
    layer = saliency_layer(PICTURE, np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))
    assert layer.shape == PICTURE.shape
    assert layer[30:, 50:].mean() > layer[:20, :20].mean() + 80


@pytest.mark.parametrize("size", [(7, 5), (40, 60), (2, 3), (41, 59)])
def test_cells_cover_the_picture_in_order(size: tuple[int, int]) -> None:
    picture = np.zeros((*size, 3), dtype=np.uint8)
    cells = spread(np.arange(6).reshape(2, 3), picture)
    assert cells.shape == size
    assert set(np.unique(cells)) == set(range(6))
    assert (np.diff(cells, axis=0) >= 0).all()
    assert (np.diff(cells, axis=1) >= 0).all()


def test_resize_keeps_the_aspect_ratio() -> None:
    assert resize(PICTURE, 30).shape == (20, 30, 3)
    assert resize(PICTURE, 120).shape == (80, 120, 3)


@pytest.mark.parametrize("vision", VISION)
def test_clusters_differ_for_colour_blind_people(vision: str) -> None:
    def distances(colours: np.ndarray, pairs: list[tuple[int, int]]) -> list[float]:
        seen = [lab(VISION[vision] @ linear(css(tuple(colour)))) for colour in colours.tolist()]
        return [float(np.linalg.norm(seen[one] - seen[other])) for one, other in pairs]

    # 2.3 is just noticeable. The first clusters differ from each other, later ones from those before and after them.
    assert min(distances(cluster_colours(7), list(combinations(range(7), 2)))) > 15
    assert min(distances(cluster_colours(700), [(slot, slot + 1) for slot in range(699)])) > 15


def test_plots_have_the_same_colours() -> None:
    assert set(SERIES_COLOURS) == {css(colour) for name, colour in OKABE_ITO.items() if name != "yellow"} | {"#000000"}
    assert SERIES_COLOURS[:2] == ("#0072b2", "#d55e00")


def test_colours() -> None:
    colours = cluster_colours(100)
    assert (colours.shape, colours.dtype) == ((100, 3), np.uint8)
    assert len({tuple(colour) for colour in colours.tolist()}) == 100
    assert (np.abs(np.diff(colours.astype(int), axis=0)).sum(axis=1) > 100).all()
    assert cluster_colours(0).shape == (0, 3)
    assert segment_colour(0) != segment_colour(1)
    assert css((255, 0, 16)) == "#ff0010"
    heat = heat_colours(np.linspace(0, 1, 9)).sum(axis=1, dtype=int)
    assert (np.diff(heat) > 0).all()
