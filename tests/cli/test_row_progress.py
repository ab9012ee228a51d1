"""Times of a progress display, and the reasons of failed rows."""

import io
import re

import pytest
from rich.console import Console

from tangovlm.cli import row_progress
from tangovlm.cli.row_progress import log_failures, row_bar, times_text


def test_each_time_says_what_it_is() -> None:
    assert times_text(3.4, 0, 10) == "0:00:03 elapsed"
    assert times_text(60.0, 1, 61) == "0:01:00 elapsed, about 1:00:00 left"
    assert times_text(7.0, 2, 2) == "0:00:07 elapsed, about 0:00:00 left"


def test_a_terminal_shows_both_times(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(
        row_progress, "Console", lambda **_: Console(file=stream, force_terminal=True, width=120, color_system=None)
    )
    with row_bar(10, 4) as advance:
        advance(1, 0)
        advance(6, 2)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue()).splitlines()[-1]
    assert shown.startswith("rows, 2 failed")
    assert re.search(r"10/10 0:00:0\d elapsed, about 0:00:00 left$", shown.rstrip())


def test_lines_without_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(row_progress, "_LINE_SECONDS", -1.0)
    with row_bar(10, 4) as advance:
        advance(1, 1)
    assert re.fullmatch(
        r"5 of 10 rows, 1 failed, 0:00:00 elapsed, about 0:00:00 left\n", capsys.readouterr().err
    )  # fmt: skip


def test_reasons_are_short_and_few(capsys: pytest.CaptureFixture[str]) -> None:
    log_failures([("a", "no\nvideo"), (2, "x" * 1000)], 5)
    first, second, more = capsys.readouterr().err.splitlines()
    assert (first, more) == ("failed: a: no video", "failed: 3 more")
    assert len(second) < 330 and second.endswith("...")
    log_failures([], 0)
    assert capsys.readouterr().err == ""
