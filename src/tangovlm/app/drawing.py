"""What is drawn over the frames of a clip, as data URIs."""

from collections.abc import Mapping

import numpy as np

from tangovlm.report import Scene
from tangovlm.report.embed import png
from tangovlm.report.overlay import saliency_cells
from tangovlm.report.palette import Pixels, cluster_colours
from tangovlm.report.scenes import Flags, Ints

from .layers import KEPT_COLOUR

_CELL = 8
"""Pixels of a token in each direction."""
_DROPPED_BELOW_KEPT, _DROPPED = (0, 0, 0, 165), (0, 0, 0, 215)
"""RGBA over a dropped token: without clusters, frames can be recognised below it."""
_MERGED_COLOUR, _MERGED_ALPHA = 0.6, 165
"""Factor of a cluster's colour, and opacity of it, over a merged token."""
_EDGE = np.ones((_CELL, _CELL), dtype=bool)
_EDGE[1:-1, 1:-1] = False


def layers_of(drawn: Scene) -> Mapping[str, tuple[str, ...]]:
    """The layers of a scene, by name, each with one image per frame; without those that it has no data for.

    In "kept" all tokens but the kept ones are dark, also those that were dropped inside the language model; "clusters"
    tints those that were merged into a kept one.
    """
    layers = {}
    if drawn.sources is not None and drawn.kept is not None:
        left = kept_in_the_end(drawn)
        plain = np.array([KEPT_COLOUR] * max(1, drawn.slots), dtype=np.uint8)
        colours = cluster_colours(drawn.slots)
        layers["kept"] = tuple(png(_cells(np.where(flags, 0, -1), flags, plain, _DROPPED_BELOW_KEPT)) for flags in left)
        pairs = zip(drawn.sources, drawn.kept, strict=True)
        layers["clusters"] = tuple(png(_cells(sources, kept, colours, _DROPPED)) for sources, kept in pairs)
    if drawn.saliency is not None:
        layers["saliency"] = tuple(png(saliency_cells(each)) for each in drawn.saliency)
    return layers


def kept_in_the_end(drawn: Scene) -> np.ndarray:
    """`(T, H, W)` True for the tokens that the last layer of the language model reads of a scene with a record."""
    assert drawn.kept is not None
    return drawn.cuts[-1].present if drawn.cuts else drawn.kept


def _cells(sources: Ints, kept: Flags, colours: Pixels, dropped: tuple[int, int, int, int]) -> Pixels:
    """A layer to be laid over a frame: `(H * _CELL, W * _CELL, 4)` RGBA, nothing over kept tokens but an outline.

    Parameters
    ----------
    sources: `(H, W)` the cluster of each token, -1 for dropped.
    kept: `(H, W)` True at the token that represents a cluster.
    colours: `(K, 3)` the colour of each cluster.
    dropped: RGBA over a dropped token.
    """
    colour = colours[np.maximum(sources, 0)] if len(colours) else np.zeros((*sources.shape, 3), dtype=np.uint8)
    layer = np.zeros((*sources.shape, 4), dtype=np.uint8)
    layer[sources < 0] = dropped
    layer[sources >= 0, :3] = (colour * _MERGED_COLOUR)[sources >= 0]
    layer[sources >= 0, 3] = _MERGED_ALPHA
    layer[kept] = 0
    layer = layer.repeat(_CELL, axis=0).repeat(_CELL, axis=1)
    outline = np.kron(kept, _EDGE).astype(bool)
    layer[outline, :3] = colour.repeat(_CELL, axis=0).repeat(_CELL, axis=1)[outline]
    layer[outline, 3] = 255
    return layer
