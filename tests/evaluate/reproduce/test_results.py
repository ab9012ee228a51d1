"""From the answers of rows to a table: scores by each benchmark's rule, paired differences, pages, and the folder."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tangovlm.errors import InputError
from tangovlm.evaluate.reproduce import benchmarks, compare, models, pages, planning, store, tables
from tangovlm.evaluate.reproduce.harnesses import answers
from tangovlm.evaluate.reproduce.harnesses.answers import Answer, Results
from tangovlm.evaluate.reproduce.paper import UNKNOWN, Paper

FOUR = benchmarks.chosen(())
CLIPS = 30


@pytest.fixture
def made() -> planning.Plan:
    return planning.make(tables.table("table1"), None, FOUR, rows=["^10-tango"])


def results(seed: int, share: float, clips: int = CLIPS) -> Results:
    """Answers of a row to the same questions as any other row's, of which that share is right."""
    rng = np.random.default_rng(seed)
    found = []
    for benchmark in FOUR:
        for clip in range(clips):
            for question in range(2):
                group = benchmark.groups[clip % 3] if benchmark.groups else ""
                category = "order" if clip % 4 else "count"
                right = bool(rng.random() < share)
                found.append(Answer(benchmark.name, f"{clip}-{question}", str(clip), category, group, right))
    return Results(tuple(found), {}, "a harness 1")


def test_scores_follow_the_rule_of_each_benchmark() -> None:
    # MLVU: all three of one category, none of the single one of the other.
    mlvu = [Answer("mlvu", str(n), "a", "order" if n else "count", "", n > 0) for n in range(4)]
    lvb = [replace(each, benchmark="longvideobench") for each in mlvu]
    videomme = [Answer("videomme", str(n), "a", "x", ("short", "long")[n % 2], n % 2 == 0) for n in range(4)]
    own = Results((*mlvu, *lvb, *videomme), {}, "")
    scored = answers.scores(own, FOUR)
    assert scored == {
        "mvbench": None, "longvideobench": 75.0, "mlvu": 50.0, "videomme": 50.0,
        "videomme/short": 100.0, "videomme/medium": None, "videomme/long": 0.0, "average": pytest.approx(175 / 3),
    }  # fmt: skip
    weighed = answers.weights(own.answers, FOUR)
    mean = sum(w * each.right for w, each in zip(weighed, own.answers, strict=True)) / len(own.answers)
    assert 100 * mean == pytest.approx(scored["average"])


def test_differences_are_paired_and_of_the_average(made: planning.Plan) -> None:
    baseline, tango = results(0, 0.9), results(1, 0.5)
    lines = compare.compare(made, {"100-all-tokens": baseline, "10-tango": tango}, Paper())
    whole, own, text, release = lines
    averages = [answers.scores(each, FOUR)["average"] for each in (baseline, tango)]
    assert own.against_baseline is not None
    assert own.against_baseline.value == pytest.approx(averages[1] - averages[0])  # type: ignore[operator]
    assert own.against_baseline.clear
    assert own.against_baseline.low < own.against_baseline.value < own.against_baseline.high  # type: ignore[operator]
    assert own.share == pytest.approx(100 * averages[1] / averages[0])  # type: ignore[operator]
    assert (whole.share, whole.against_baseline, own.against_tango) == (100, None, None)
    assert (text.results, release.ours, release.share) == (None, {}, None)


def test_a_row_against_itself_differs_by_nothing(made: planning.Plan) -> None:
    same = results(0, 0.6)
    lines = compare.compare(made, {"100-all-tokens": same, "10-tango": same, "10-tango-the-release": same}, Paper())
    for estimate in (lines[1].against_baseline, lines[3].against_tango):
        assert estimate is not None
        assert (estimate.value, estimate.low, estimate.high, estimate.clear) == (0, 0, 0, False)


def test_few_clips_have_no_interval_and_other_questions_no_difference(made: planning.Plan) -> None:
    few, other = results(0, 0.5, clips=3), results(1, 0.5, clips=4)
    (_, own, *_) = compare.compare(made, {"100-all-tokens": few, "10-tango": results(2, 0.5, clips=3)}, Paper())
    assert own.against_baseline is not None
    assert own.against_baseline.low is None
    (_, own, *_) = compare.compare(made, {"100-all-tokens": few, "10-tango": other}, Paper())
    assert own.against_baseline is None


def test_pages_have_the_paper_s_numbers_or_say_that_there_are_none(made: planning.Plan, tmp_path: Path) -> None:
    own = tmp_path / "own.json"
    own.write_text('{"table1": {"10 %": {"Tango": {"mvbench": 51.5, "percent_of_baseline": 98.0}}}}')
    paper = Paper(own)
    found = {"100-all-tokens": results(0, 0.9), "10-tango": replace(results(1, 0.5), reported={"mvbench": 1.0})}
    lines = compare.compare(made, found, paper)
    text = pages.markdown(made, lines, paper, ["<Harness> & more."])
    mvbench = lines[1].ours["mvbench"]
    assert mvbench is not None
    assert f"| {mvbench:.1f} (paper 51.5, {mvbench - 51.5:+.1f}) |" in text
    assert UNKNOWN in text.splitlines()[4]
    assert "98.0 %" in text.splitlines()[5]
    assert "not run" in text
    assert f"questions asked: MVBench {2 * CLIPS}, LongVideoBench (val) {2 * CLIPS}," in text
    assert "the harness reports 1.0 for mvbench" in text
    (rule,) = [line for line in text.splitlines() if line.startswith("| ---")]
    assert {line.count("|") for line in text.splitlines() if line.startswith("|")} == {rule.count("|")}
    page = pages.html(made, lines, paper, ["<Harness> & more."])
    assert "&lt;Harness&gt; &amp; more." in page
    assert "<b>-" in page
    assert "segment_threshold=0.65" in page
    tags = Tags()
    tags.feed(page)
    assert tags.open == []


class Tags(HTMLParser):
    """Tags that are open at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_page_of_another_model_says_so() -> None:
    made = planning.make(tables.table("table1"), models.TINY, FOUR, rows=["10-tango"])
    found = {"100-all-tokens": results(0, 0.9), "10-tango": results(1, 0.8)}
    paper = Paper(known=False)
    text = pages.markdown(made, compare.compare(made, found, paper), paper, [])
    assert text.startswith("### Table 1: LLaVA-OneVision-7B, 32 frames; here on tangovlm-tiny, 8 frames")
    assert "are too narrow" in text
    assert "98.9" not in text


def test_a_table_of_times_has_them() -> None:
    made = planning.make(tables.table("fig9"), None, FOUR, rows=["10-tango", "5-tango"])
    measured = {"other_ms": 300.0, "prefill_ms": 700.0, "ttft_ms": 1000.0, "peak_memory_gb": 17.5, "device": "x"}
    found = {
        "100-all-tokens": replace(results(0, 0.9), measured=measured),
        "10-tango": replace(results(1, 0.8), measured=measured | {"prefill_ms": 100.0, "ttft_ms": 400.0}),
    }
    lines = compare.compare(made, found, Paper())
    assert [line.speedup for line in lines] == [1, 2.5, None]
    text = pages.markdown(made, lines, Paper(), [])
    (own,) = [line for line in text.splitlines() if line.startswith("| Tango | 10 %")]
    assert own.endswith("| 300.00 | 100.00 | 400.00 | 17.50 | 2.50 | 1.88 |")
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1


def test_a_line_as_json_has_everything(made: planning.Plan) -> None:
    lines = compare.compare(made, {"100-all-tokens": results(0, 0.9), "10-tango": results(1, 0.5)}, Paper())
    told = json.loads(json.dumps([line.as_dict() for line in lines], allow_nan=False))
    assert told[1]["published"]["mvbench"] is None
    assert told[1]["difference"]["mvbench"] is None
    assert told[1]["questions"] == 4 * 2 * CLIPS
    assert told[1]["hyper_parameters"]["retention"] == 0.1
    assert told[2]["ours"] == {}


def test_the_folder_knows_what_is_finished_begun_and_of_other_settings(made: planning.Plan, tmp_path: Path) -> None:
    own = store.Store(tmp_path / "out", made, "lmms-eval")
    whole, tango, *_ = made.steps
    assert set(own.states().values()) == {planning.PLANNED}
    assert not own.folder.exists()
    own.begin(whole)
    assert own.states()[whole.row.key] == planning.HALF
    own.begin(tango)
    own.finish(tango, results(1, 0.5))
    assert own.states()[tango.row.key] == planning.DONE
    assert own.results() == {tango.row.key: results(1, 0.5)}

    other = planning.make(tables.table("table1"), None, FOUR, rows=["^10-tango"], limit=5)
    with pytest.raises(InputError, match="100-all-tokens holds results of other settings, limit None and not 5: cho"):
        store.Store(own.folder, other, "lmms-eval").states()
    with pytest.raises(InputError, match="harness 'lmms-eval' and not 'vlmevalkit'"):
        store.Store(own.folder, made, "vlmevalkit").states()
    (own.row_folder(tango) / "results.json").write_text('{"answers": [')
    with pytest.raises(InputError, match="is damaged"):
        own.results()
    (own.row_folder(tango) / "row.json").write_text("[")
    with pytest.raises(InputError, match="is damaged"):
        own.states()
