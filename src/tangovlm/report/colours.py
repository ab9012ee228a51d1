"""Colours as 8-bit RGB triples; unlike `palette`, without numpy, which the command line does without."""

RGB = tuple[int, int, int]

OKABE_ITO: dict[str, RGB] = {
    "orange": (230, 159, 0),
    "sky blue": (86, 180, 233),
    "blue": (0, 114, 178),
    "yellow": (240, 228, 66),
    "reddish purple": (204, 121, 167),
    "vermilion": (213, 94, 0),
    "bluish green": (0, 158, 115),
}
"""Colours that differ for colour-blind people too (Okabe and Ito, 2008); in this order, neighbours differ most."""


def css(colour: RGB) -> str:
    """The colour as `#rrggbb`."""
    return "#{:02x}{:02x}{:02x}".format(*(int(c) for c in colour))
