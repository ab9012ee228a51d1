"""The picture of a table: its lines, panels and axes, read back from matplotlib's objects."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tangovlm.evaluate.runs import Run, build_run, unpruned_run
from tangovlm.evaluate.statistics import Estimate
from tangovlm.evaluate.tables import Table, picture
from tangovlm.evaluate.tables.summary import LengthFigures, Line
from tests.evaluate.tables.adaptive_method import Adaptive

HEADER = {"benchmark": "tangoworld", "version": 1, "model": "tiny"}

figures = pytest.importorskip("matplotlib.figure", reason="no matplotlib here")


def line(run: Run, tokens: float, exact: float) -> Line:
    estimate = Estimate(exact, exact - 0.02, exact + 0.02)
    lengths = {length: LengthFigures(10, tokens, estimate, {}) for length in (16, 64)}
    return Line(run, 20, 30, tokens, {}, estimate, estimate, 1.0, {}, lengths, None)


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Draw a table, check the file, and return the figure."""

    def draw(of: Table, lines: list[Line]) -> Any:
        made = []

        class Recorded(figures.Figure):
            def __init__(self, *args: Any, **options: Any) -> None:
                super().__init__(*args, **options)
                made.append(self)

        monkeypatch.setattr(figures, "Figure", Recorded)
        picture.draw(tmp_path / "p.png", of, lines, HEADER)
        with Image.open(tmp_path / "p.png") as image:
            assert (image.format, image.size) == ("PNG", (1000, 600))
        return made[0]

    return draw


def lines_of(axes: Any) -> dict[str, list[tuple[float, float]]]:
    def points(each: Any) -> list[tuple[float, float]]:
        return [(float(x), round(float(y), 6)) for x, y in zip(each.get_xdata(), each.get_ydata(), strict=True)]

    return {each.get_label(): points(each) for each in axes.lines}


def test_accuracy_against_tokens(drawn: Any) -> None:
    rows = [
        line(unpruned_run(), 1920, 0.943),
        line(build_run("tango", 0.2), 384, 0.93),
        line(build_run("tango", 0.1), 192, 0.90),
        line(build_run("divprune", 0.2), 384, 0.94),
        line(Run("few", "g", Adaptive(0.2, threshold=1), series="twin"), 90, 0.93),
    ]
    figure = drawn(Table("t", "Title", tuple(row.run for row in rows)), rows)
    (axes,) = figure.axes
    found = lines_of(axes)
    assert list(found) == ["all tokens (1,920)", "tango", "divprune", "twin (adaptive)"]
    assert found["tango"] == [(192, 90.0), (384, 93.0)]
    assert found["all tokens (1,920)"][0][1] == pytest.approx(94.3)
    markers = {each.get_label(): each.get_marker() for each in axes.lines}
    assert markers["twin (adaptive)"] == "*" and "*" not in (markers["tango"], markers["divprune"])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("mean visual tokens per question", "exact match in percent")
    assert figure._suptitle.get_text() == "Title: tangoworld 1, tiny"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(found)
    # Few lines: the intervals are drawn.
    assert len(axes.collections) == 3


def test_no_intervals_among_many_lines(drawn: Any) -> None:
    names = ("tango", "divprune", "fastvid", "uniform", "random", "vidcom2", "prunevid")
    rows = [line(unpruned_run(), 1920, 0.94), *(line(build_run(name, 0.1), 192, 0.9) for name in names)]
    (axes,) = drawn(Table("t", "Title", tuple(row.run for row in rows)), rows).axes
    assert len(axes.lines) == 8 and not axes.collections


def test_a_panel_per_number_of_tokens_over_frames(drawn: Any) -> None:
    rows = [line(unpruned_run(), 4096, 0.91), line(unpruned_run(8, "all tokens, 8 frames"), 512, 0.84)]
    for group, tokens in (("2 %", 82), ("5 %", 205)):
        for frames in (64, 8):
            run = build_run("tango", 0.1, label=f"tango, {frames} frames", group=group, frames=frames, series="tango")
            rows.append(line(run, tokens, 0.8 + frames / 1000))
    of = Table("t", "Title", tuple(row.run for row in rows), lengths=(64,), axis="frames")
    first, second = drawn(of, rows).axes
    assert (first.get_title(), second.get_title()) == ("2 %", "5 %")
    assert first.get_xlabel() == "frames per clip"
    for axes in (first, second):
        found = lines_of(axes)
        assert found["tango"] == [(8, 80.8), (64, 86.4)]
        assert found["all tokens of the frames"] == [(8, 84.0), (64, 91.0)]


def test_the_unpruned_model_alone(drawn: Any) -> None:
    rows = [line(unpruned_run(), 1920, 0.94)]
    (axes,) = drawn(Table("t", "Title", (rows[0].run,)), rows).axes
    assert list(lines_of(axes)) == ["all tokens (1,920)"]
