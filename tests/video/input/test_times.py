"""Times as people write them."""

import pytest

from tangovlm.errors import VideoError
from tangovlm.video.input.times import parse_seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("90", 90),
        ("90.25", 90.25),
        (".5", 0.5),
        ("1:30", 90),
        ("75:00", 4500),
        ("1:00:05.5", 3605.5),
        (" 7 ", 7),
    ],
)
def test_seconds_and_clock_times(text: str, seconds: float) -> None:
    assert parse_seconds(text, "--start") == seconds


@pytest.mark.parametrize("text", ["", "-1", "nan", "inf", "1:60", "1:60:00", "1:2:3:4", "1m30s", "1,5", "1:-5", "٣"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(VideoError, match="^--start is .*: give seconds, or a time such as 1:30"):
        parse_seconds(text, "--start")
