"""Colours of clusters, saliency and segments, as 8-bit RGB triples."""

import numpy as np
import numpy.typing as npt

from .colours import OKABE_ITO, RGB, css

Pixels = npt.NDArray[np.uint8]

GOLDEN_RATIO = 0.618033988749895
_PALEST = 0.3
"""Largest part of white in a colour of a cluster."""
HEAT_STOPS: tuple[tuple[float, RGB], ...] = (
    (0.00, (10, 8, 34)),
    (0.25, (76, 28, 120)),
    (0.50, (184, 52, 96)),
    (0.75, (244, 124, 48)),
    (1.00, (254, 244, 164)),
)
SEGMENT_COLOURS: tuple[RGB, ...] = ((92, 140, 255), (255, 158, 74), (84, 196, 140), (206, 122, 232))


def cluster_colours(count: int) -> Pixels:
    """One colour per slot, `(count, 3)` uint8: those of `OKABE_ITO` in turn, with another part of white each turn."""
    slots = np.arange(count)
    pure = np.array(list(OKABE_ITO.values()), dtype=np.float64)[slots % len(OKABE_ITO)]
    white = (_PALEST * (slots // len(OKABE_ITO) * GOLDEN_RATIO % 1))[:, None]
    return np.floor(pure * (1 - white) + 255 * white + 0.5).astype(np.uint8)


def segment_colour(segment: int) -> RGB:
    """The colour of a temporal segment; colours repeat, but not in adjacent segments."""
    return SEGMENT_COLOURS[segment % len(SEGMENT_COLOURS)]


def heat_gradient() -> str:
    """The colours of `heat_colours` from 0 to 1 as a gradient of CSS."""
    return f"linear-gradient(90deg, {', '.join(f'{css(colour)} {100 * stop:.0f}%' for stop, colour in HEAT_STOPS)})"


def heat_colours(values: npt.NDArray[np.floating]) -> Pixels:
    """Map values in [0, 1] of any shape `(...)` to colours `(..., 3)` uint8, dark for 0 and bright for 1."""
    positions = [position for position, _ in HEAT_STOPS]
    channels = [np.interp(values, positions, [colour[c] for _, colour in HEAT_STOPS]) for c in range(3)]
    return np.round(np.stack(channels, axis=-1)).astype(np.uint8)
