"""Pages as Markdown and HTML."""

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

from tangovlm.evaluate.reproduce import compare, models, pages, planning, tables
from tangovlm.evaluate.reproduce.paper import UNKNOWN, Paper
from tests.support.reproduce import CLIPS, FOUR, results


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
    made = planning.make_plan(tables.table("table1"), models.TINY, FOUR, rows=["10-tango"])
    found = {"100-all-tokens": results(0, 0.9), "10-tango": results(1, 0.8)}
    paper = Paper(known=False)
    text = pages.markdown(made, compare.compare(made, found, paper), paper, [])
    assert text.startswith("### Table 1: LLaVA-OneVision-7B, 32 frames; here on tangovlm-tiny, 8 frames")
    assert "are too narrow" in text
    assert "98.9" not in text


def test_a_table_of_times_has_them() -> None:
    made = planning.make_plan(tables.table("fig9"), None, FOUR, rows=["10-tango", "5-tango"])
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
