"""Times as people write them: seconds, or hours, minutes and seconds."""

import re

from tangovlm.errors import VideoError

_CLOCK = re.compile(r"(?:(?:(?P<h>\d+):)?(?P<m>\d+):)?(?P<s>\d+(?:\.\d*)?|\.\d+)", re.ASCII)


def parse_seconds(text: str, name: str) -> float:
    """Seconds from a number of seconds, ``m:ss`` or ``h:mm:ss``, with decimals if need be.

    Parameters
    ----------
    name: of the value, for the error.

    Raises
    ------
    VideoError: anything else, or 60 or more seconds or minutes behind a colon.

    Examples
    --------
    >>> parse_seconds("90.5", "--start"), parse_seconds("1:30.5", "--start"), parse_seconds("1:00:05", "--start")
    (90.5, 90.5, 3605.0)
    """
    found = _CLOCK.fullmatch(text.strip())
    if found is not None:
        hours, minutes, seconds = (float(part or 0) for part in found.group("h", "m", "s"))
        if (found["m"] is None or seconds < 60) and (found["h"] is None or minutes < 60):
            return 3600 * hours + 60 * minutes + seconds
    raise VideoError(f"{name} is {text!r}: give seconds, or a time such as 1:30 or 1:05:00")
