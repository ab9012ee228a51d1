"""Layers over a frame: kept and merged tokens, and saliency.

The functions accept one `(Y, X, 3)` uint8 picture and maps over its `(H, W)` token grid, which covers the whole
picture, and return a new picture of the same size.
"""

from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from .palette import Pixels, heat_colours
from .scenes import Ints

Scalar = TypeVar("Scalar", bound=np.generic)

DROPPED_BRIGHTNESS = 0.18
MERGED_BRIGHTNESS = 0.42
TINT = 0.30
HEAT = 0.70


def resize(picture: Pixels, width: int, aspect: float | None = None) -> Pixels:
    """Scale to `width` pixels, with a width of `aspect` times the height; None preserves the aspect ratio."""
    height = max(1, round(width / (aspect or picture.shape[1] / picture.shape[0])))
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))


def kept_layer(picture: Pixels, sources: Ints, kept: npt.NDArray[np.bool_], colours: Pixels) -> Pixels:
    """Draw kept tokens bright with an outline in the colour of their cluster, merged ones tinted, dropped ones dark.

    Parameters
    ----------
    sources: `(H, W)` the cluster of each token, -1 for dropped.
    kept: `(H, W)` True at the token that represents a cluster.
    colours: `(K, 3)` the colour of each cluster.
    """
    slot, is_kept = spread(sources, picture), spread(kept, picture)
    colour = colours[np.maximum(slot, 0)].astype(np.float64) if len(colours) else np.zeros(picture.shape)
    grey = picture.mean(axis=-1, keepdims=True)
    layer = np.where((slot >= 0)[..., None], grey * MERGED_BRIGHTNESS + colour * TINT, grey * DROPPED_BRIGHTNESS)
    layer = np.where(is_kept[..., None], picture, layer)
    layer = np.where((is_kept & _borders(sources.shape, picture))[..., None], colour, layer)
    return np.clip(np.round(layer), 0, 255).astype(np.uint8)


def saliency_cells(saliency: npt.NDArray[np.float64]) -> Pixels:
    """The colours of `saliency_layer` without the picture: `(H, W, 4)` RGBA, to be scaled smoothly."""
    alpha = np.full((*saliency.shape, 1), round(255 * HEAT), dtype=np.uint8)
    return np.concatenate([heat_colours(saliency), alpha], axis=-1)


def saliency_layer(picture: Pixels, saliency: npt.NDArray[np.float64]) -> Pixels:
    """Draw a heat map of `saliency (H, W)` in [0, 1] over the grey picture, interpolated between token centres."""
    size = (picture.shape[1], picture.shape[0])
    smooth = Image.fromarray(saliency.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    grey = picture.mean(axis=-1, keepdims=True)
    layer = heat_colours(np.asarray(smooth)) * HEAT + grey * (1 - HEAT)
    return np.clip(np.round(layer), 0, 255).astype(np.uint8)


def spread(grid: npt.NDArray[Scalar], picture: Pixels) -> npt.NDArray[Scalar]:
    """Repeat an `(H, W)` map over the pixels of a picture: `(Y, X)`."""
    rows = np.arange(picture.shape[0]) * grid.shape[0] // picture.shape[0]
    columns = np.arange(picture.shape[1]) * grid.shape[1] // picture.shape[1]
    return grid[rows[:, None], columns[None, :]]


def _borders(shape: tuple[int, ...], picture: Pixels) -> npt.NDArray[np.bool_]:
    """True on the border of every cell; its thickness depends on the size of the cell."""
    cell = min(picture.shape[0] / shape[0], picture.shape[1] / shape[1])
    rim = 0.0 if cell < 4 else 1.0 if cell < 14 else 2.0

    def near_edge(pixels: int, cells: int) -> npt.NDArray[np.bool_]:
        inside = (np.arange(pixels) + 0.5) % (pixels / cells)
        return (inside < rim) | (inside > pixels / cells - rim)

    rows, columns = near_edge(picture.shape[0], shape[0]), near_edge(picture.shape[1], shape[1])
    return rows[:, None] | columns[None, :]
