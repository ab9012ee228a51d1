"""Grid positions that a vision tower is known to over-attend whatever the picture shows.

The lists are those of the authors' release (xjtupanda/Tango cc815b6) for SigLIP-so400m/14 at 384 px.
"""

_SINKS: dict[tuple[int, int], tuple[int, ...]] = {
    (14, 14): (28, 27, 41, 169, 11, 12),  # LLaVA-OneVision, bilinear pooling
    (13, 13): (26, 157, 11),  # LLaVA-Video, average pooling
}


def sinks_for_grid(height: int, width: int) -> tuple[int, ...] | None:
    """Positions ``h * width + w`` to mask on a grid of this size, or None where nobody has measured them."""
    return _SINKS.get((height, width))
