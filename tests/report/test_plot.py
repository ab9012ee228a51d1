"""Styles of plots, and the missing optional dependency."""

import re

import pytest

from tangovlm.errors import InputError
from tangovlm.machine.installation import install_command
from tangovlm.report import plot


def test_styles_differ_without_colour() -> None:
    styles = [tuple(plot.series_style(number).items()) for number in range(63)]
    assert len(set(styles)) == 63
    # Two lines of one colour have another marker.
    assert len({(style["color"], style["marker"]) for style in map(plot.series_style, range(63))}) == 63


def test_a_missing_matplotlib_costs_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot, "find_spec", lambda _: None)
    with pytest.raises(
        InputError, match=re.escape(f"--plot needs matplotlib: {install_command('report')}, or leave it out")
    ):
        plot.check_matplotlib("--plot")
    monkeypatch.setattr(plot, "find_spec", lambda _: object())
    plot.check_matplotlib("--plot")
