"""Common parts of plots: the optional dependency, and styles that differ without colour too."""

from importlib.util import find_spec

from tangovlm.errors import InputError
from tangovlm.machine.installation import install_command

from .colours import OKABE_ITO, css

_SERIES = ("blue", "vermilion", "bluish green", "reddish purple", "orange", "sky blue")
SERIES_COLOURS = (*(css(OKABE_ITO[name]) for name in _SERIES), "#000000")
"""The palette of Okabe and Ito without its yellow, which is faint on white, and with its black."""
_LINES = ("-", "--", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
ADAPTIVE_MARKER = "*"


def check_matplotlib(option: str, instead: str = "leave it out") -> None:
    """Raise `InputError` if matplotlib is not installed.

    Parameters
    ----------
    option: of the command line that needs it, such as "--picture".
    instead: what else the user can do.
    """
    if find_spec("matplotlib") is None:
        raise InputError(f"{option} needs matplotlib: {install_command('report')}, or {instead}")


def series_style(number: int) -> dict[str, str]:
    """Colour, dashes and marker of a line, as arguments of matplotlib's ``plot``; the first 63 lines all differ.

    >>> series_style(0)
    {'color': '#0072b2', 'linestyle': '-', 'marker': 'o'}
    """
    return {
        "color": SERIES_COLOURS[number % len(SERIES_COLOURS)],
        "linestyle": _LINES[number // len(SERIES_COLOURS) % len(_LINES)],
        "marker": _MARKERS[number % len(_MARKERS)],
    }
