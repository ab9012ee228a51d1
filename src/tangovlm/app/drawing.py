"""What is drawn over the frames of a clip, as data URIs."""

from collections.abc import Mapping

import numpy as np

from tangovlm.report import Scene
from tangovlm.report.embed import png
from tangovlm.report.overlay import DROPPED_RGBA, kept_cells, saliency_cells
from tangovlm.report.palette import Pixels, cluster_colours

from .layers import KEPT_COLOUR

_CELL = 8
_DROPPED_ALPHA = 165


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
        layers["kept"] = tuple(png(_lighter(kept_cells(np.where(flags, 0, -1), flags, plain, _CELL))) for flags in left)
        pairs = zip(drawn.sources, drawn.kept, strict=True)
        layers["clusters"] = tuple(png(kept_cells(sources, kept, colours, _CELL)) for sources, kept in pairs)
    if drawn.saliency is not None:
        layers["saliency"] = tuple(png(saliency_cells(each)) for each in drawn.saliency)
    return layers


def kept_in_the_end(drawn: Scene) -> np.ndarray:
    """`(T, H, W)` True for the tokens that the last layer of the language model reads of a scene with a record."""
    assert drawn.kept is not None
    return drawn.cuts[-1].present if drawn.cuts else drawn.kept


def _lighter(layer: Pixels) -> Pixels:
    """The layer with dropped tokens less dark, so that the frame can be recognised below them."""
    layer[layer[..., 3] == DROPPED_RGBA[3], 3] = _DROPPED_ALPHA
    return layer
