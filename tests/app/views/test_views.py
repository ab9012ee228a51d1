"""HTML of the page: what is shown of a run, with everything escaped."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

from tangovlm.app.clips import Clip
from tangovlm.app.layers import NAMES
from tangovlm.app.limits import Limits
from tangovlm.app.results import Choice, Result, Run
from tangovlm.app.views import parts
from tangovlm.app.views.answers import answers
from tangovlm.app.views.comparison import as_csv, comparison
from tangovlm.app.views.frames import frames, layer_choice
from tangovlm.pipeline import VideoLLM

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
FULL, TANGO, FASTV = Choice("tango", 1.0), Choice("tango", 0.1), Choice("fastv", 0.5)
EVIL = "<img src=x onerror=alert(1)>'\""


@pytest.fixture(scope="module")
def results(llm: VideoLLM, demo: Clip) -> dict[Choice, Result]:
    encoded = llm.encode(demo.path, record=True)
    made: dict[Choice, Result] = {}
    for choice in (TANGO, FULL, FASTV):
        answer = encoded.with_method(choice.method, choice.retention).ask(demo.questions[0][0])
        made[choice] = Result.of(answer, made.values())
    return made


@pytest.fixture
def run(results: dict[Choice, Result], demo: Clip) -> Run:
    made = Run.begin(demo, demo.questions[0][0], list(results), 16)
    for place, result in enumerate(results.values()):
        made = made.with_column(place, result=result, text=str(result.answer))
    return made


def test_pictures_are_shared(results: dict[Choice, Result]) -> None:
    assert len({id(result.pictures) for result in results.values()}) == 1
    assert all(result.answer.video is None for result in results.values())


def test_layers_of_each_method(results: dict[Choice, Result]) -> None:
    assert set(results[TANGO].layers) == set(NAMES) - {"none"}
    assert all(len(images) == 16 for images in results[TANGO].layers.values())
    assert results[TANGO].layers["kept"] != results[TANGO].layers["clusters"]


def test_answers_with_counts_times_and_truth(run: Run) -> None:
    page = answers(run, "token")
    text = unescape(re.sub(r"<[^>]+>", " ", page))
    for words in ("all tokens", "tango, 10 %", "102", "of 1,024 (9.96 %)", "✓ right", "prune tokens", "vision encoder"):
        assert words in text
    assert "href='run/token.html' download" in page
    wrong = replace(run, clip=replace(run.clip, questions=((run.question, "seven"),)))
    assert "✗ wrong: seven" in answers(wrong, "token")
    unknown = replace(run, clip=replace(run.clip, questions=()))
    assert "tv-mark" not in answers(unknown, "token")


def test_a_run_that_is_not_complete(run: Run) -> None:
    begun = replace(Run.begin(run.clip, run.question, [FULL, TANGO], 16), stage="Encoding frames")
    page = answers(begun.with_column(1, text="re"), "token")
    assert "Encoding frames" in page
    assert "re<span class=tv-caret>" in page
    assert page.count("aria-busy=true") == 2
    assert "download" not in page
    assert frames(begun) == ""
    assert "download" not in comparison(begun, "token")


def test_the_frames_hold_the_data_of_the_script(run: Run, results: dict[Choice, Result]) -> None:
    page = frames(run)
    found = re.search(r"data-tokens='([^']*)'", page)
    assert found is not None
    data = json.loads(unescape(found[1]))
    drawn = results[TANGO].drawn
    assert drawn.sources is not None
    assert data["sources"] == drawn.sources.tolist()
    assert len(data["kept"]) == 102
    assert all(data["sources"][step][row][column] == slot for slot, (step, row, column) in enumerate(data["kept"]))
    assert page.count("<figure>") == 16
    assert "102 of 1,024 tokens in 16 frames" in page


def test_a_method_inside_the_model_is_not_drawn_as_if_it_kept_all(run: Run, results: dict[Choice, Result]) -> None:
    inside = Run.begin(run.clip, run.question, [FASTV], 16).with_column(0, result=results[FASTV])
    drawn, left = results[FASTV].drawn, results[FASTV].left
    assert left is not None
    assert int(left.sum()) == results[FASTV].answer.tokens_per_layer[-1] < drawn.slots == 1024
    page = frames(inside)
    assert f"keeps after the last cut inside the language model: {int(left.sum())} of 1,024 tokens" in page
    assert f"<b>{int(left[0].sum())}/64</b>" in page
    assert "data-tokens=''" in page
    assert "after the last cut inside the language model" in comparison(inside, "token")
    layers = ", ".join(map(str, results[FASTV].answer.tokens_per_layer))
    assert layers in answers(inside, "token")


def test_the_comparison_and_its_table(run: Run) -> None:
    page = comparison(run, "token")
    assert page.count("<tr") == 4
    assert page.count("tv-strip") == 2
    assert page.count("; 8 of 16 frames shown") == 2
    assert page.count("class=tv-marks") == page.count("of-kept") == 1
    for column in (run.columns[0], run.columns[2]):
        assert column.result is not None
        left, times = column.result.left, column.result.drawn.times_s
        assert left is not None
        assert f"{int(left.sum()):,} of 1,024 tokens kept in 16 frames" in page
        assert f"<span>{times[1]:.1f} s</span><b>{int(left[1].sum())}/64</b>" in page
    rows = list(csv.DictReader(io.StringIO(as_csv(run))))
    assert [row["retention"] for row in rows] == ["0.1", "1.0", "0.5"]
    assert {row["tokens_before"] for row in rows} == {"1024"}
    assert rows[0]["answer"] == run.columns[0].text
    assert rows[0]["truth"] == run.truth
    assert float(rows[0]["prefill_ms"]) > 0


def test_a_method_that_could_not_run(run: Run) -> None:
    failed = run.with_column(0, result=None, text="", error=f"out of reach {EVIL}")
    for page in (answers(failed, "token"), comparison(failed, "token")):
        assert "out of reach" in page
        assert "<img src=x" not in page
    assert next(csv.DictReader(io.StringIO(as_csv(failed))))["error"] == f"out of reach {EVIL}"


def test_everything_is_escaped(run: Run, demo: Clip) -> None:
    evil = replace(run, question=EVIL, clip=replace(demo, name=EVIL, questions=((EVIL, EVIL),)), stage=EVIL)
    pages = [
        answers(evil, EVIL), comparison(evil, EVIL), frames(evil), parts.error(EVIL), parts.status(EVIL),
        parts.player(EVIL, replace(demo, name=EVIL)), parts.picker(EVIL, Limits()),
        answers(replace(evil, error=EVIL), "token"),
    ]  # fmt: skip
    for page in pages:
        assert "<img src=x" not in page
        assert "'\"" not in page


def test_the_choice_of_layers() -> None:
    page = layer_choice("tv-layer")
    assert re.findall(r"id=tv-layer-(\w+)", page) == list(NAMES)
    assert page.count("checked") == 1
    style = (Path(parts.__file__).parents[1] / "web" / "page.css").read_text()
    for group in ("tv-layer", "tv-strip"):
        for name in set(NAMES) - {"none"}:
            assert f"#{group}-{name}:checked" in style
            marks = ":not(.tv-marks) >" if group == "tv-layer" else ".tv-marks >"
            assert f"#{group}-{name}:checked) {marks} .of-{name}" in style


def test_the_player_shows_the_duration(demo: Clip) -> None:
    file = Clip(Path("5f0a.mp4"), "Rome, day 2.mp4", 63.0, "data:,", uploaded=True)
    assert "<figcaption>Rome, day 2.mp4, 1:03</figcaption>" in parts.player("./video/x", file)
    assert "aria-label='Rome, day 2.mp4, 1:03'" in parts.player("./video/x", file)
    # Once.
    assert "<figcaption>Demo, 8 s</figcaption>" in parts.player("./video/x", demo)
