"""The tables: which runs they hold, and how they look."""

import gzip
import json
from itertools import pairwise
from pathlib import Path

import pytest

from tangovlm import Tango, registry
from tangovlm.budget import count
from tangovlm.errors import InputError, MethodError
from tangovlm.evaluate.results import Content, ResultsFile, ScoredAnswer
from tangovlm.evaluate.runs import build_run, percent, spec_key, unpruned_run
from tangovlm.evaluate.statistics import MIN_CLIPS
from tangovlm.evaluate.tables import Table, custom, names, summary, table
from tangovlm.evaluate.tables.summary import coverage_markdown, finished, markdown, overview, page, summarize
from tangovlm.evaluate.tangoworld import load_questions
from tangovlm.methods import build
from tangovlm.tiny.synthetic.questions import KINDS

HEADER = {
    "benchmark": "b", "version": 1, "questions": "q", "model": "m", "weights": "0123456789abcdef", "dtype": "float32",
    "device": "cpu", "machine": {"cpu": "c", "cores": 2}, "threads": 1, "versions": {"torch": "2"},
}  # fmt: skip


@pytest.mark.parametrize("name", names())
def test_rows(name: str) -> None:
    chosen = table(name)
    assert chosen.runs[0].key == unpruned_run().key
    assert sum(each.key == unpruned_run().key for each in chosen.runs) == 1
    labels = [(each.group, each.label) for each in chosen.runs]
    assert len(set(labels)) == len(labels)
    groups = [each.group for each in chosen.runs]
    assert sum(a != b for a, b in pairwise(groups)) == len(set(groups)) - 1
    for each in chosen.runs:
        reference = chosen.reference(each)
        assert each.unpruned or reference is not None
        assert reference is None or (reference.group, reference.pruner.retention) == (
            each.group,
            each.pruner.retention,
        )


def test_every_method_is_compared() -> None:
    compared = {each.pruner.name for each in table("methods").runs}
    assert compared == {name for name, cls in registry.methods().items() if getattr(cls, "stage", "") == "pre-llm"}
    assert {0.1, 0.15, 0.2} <= {each.pruner.retention for each in table("methods").runs}


def test_choices() -> None:
    chosen = table("methods", retentions=[0.3], methods=["uniform"])
    assert [each.key for each in chosen.runs] == [unpruned_run().key, build_run("uniform", 0.3).key]
    assert {each.pruner.retention for each in table("expansion", [0.3]).runs} == {0.3, 1.0}
    mine = custom(["tango"], [0.1], {"neighbors": 5})
    assert mine.runs[1].pruner == build.method("tango", retention=0.1, neighbors=5)
    assert mine.reference(mine.runs[1]) is None


def test_close_retentions_are_told_apart_and_equal_runs_are_not_repeated() -> None:
    close = custom(["tango", "uniform", "tango"], [0.1, 0.1001, 0.1], {})
    assert [(each.group, each.label) for each in close.runs[1:]] == [
        ("10 %", "tango"), ("10 %", "uniform"), ("10.01 %", "tango"), ("10.01 %", "uniform"),
    ]  # fmt: skip
    assert close.reference(close.runs[4]) is close.runs[3]
    assert [percent(each) for each in (1.0, 1, 0.07, 0.15, 0.29)] == ["100 %", "100 %", "7 %", "15 %", "29 %"]
    assert [each.label for each in custom(["tango", "uniform"], [1.0], {}).runs] == ["all tokens"]
    assert [each.label for each in table("methods", [1.0]).runs] == ["all tokens"]


@pytest.mark.parametrize(
    "options",
    [{"frames": value} for value in ("banana", 3.5, 0, -1, True)]
    + [{"saliency": "attention"}, {"saliency": ["attn"]}, {"positions": "close"}, {"positions": None}],
)
def test_options_of_a_run(options: dict[str, object]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(options))} is "):
        build_run("tango", 0.1, **options)


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("tables", ("nothing", (), ())),
        ("--method", ("bases", (), ("uniform",))),
        ("tengo", ("methods", (), ("tengo",))),
    ],
)
def test_mistakes(words: str, arguments: tuple[str, tuple[float, ...], tuple[str, ...]]) -> None:
    with pytest.raises((InputError, MethodError), match=words if words != "tables" else "choose one of"):
        table(*arguments)


def test_the_same_budget_at_all_frames() -> None:
    budgets: dict[str, set[int]] = {}
    for each in table("frames").runs:
        if not each.unpruned:
            budgets.setdefault(each.group, set()).add(count(each.pruner.retention, (each.frames or 0) * 64))
    assert budgets
    assert all(len(counts) == 1 for counts in budgets.values())


def test_the_threshold_is_fixed_over_the_frames() -> None:
    frames = [each for each in table("frames").runs if each.label.startswith("tango")]
    # 2 and 5 % of 64 frames are up to 40 % of 8.
    assert max(each.pruner.retention for each in frames) == 0.4
    assert {each.pruner.segment_threshold for each in frames} == {0.65}
    of = table("frames")
    flash = next(each for each in of.runs if each.label == "flashvid, 8 frames")
    reference = of.reference(flash)
    assert reference is not None
    assert (reference.label, reference.group) == ("tango, 8 frames", flash.group)


def test_the_paper_s_rows_are_in_the_tables() -> None:
    labels = {name: {each.label: each for each in table(name).runs} for name in ("ablation", "placement", "pairs")}
    assert labels["ablation"]["merging without diversity or ST-RoPE"].pruner.merge
    for part in ("ST-RoPE = Tango", "without diversity", "without timestamps", "+ diversity; attn"):
        assert any(part in label for label in labels["ablation"])
    paper = labels["placement"]["the text of the paper"].pruner
    assert paper == Tango.paper(retention=paper.retention)
    assert {"tango+tango-fastv", "holitom+holitom-merge"} <= set(labels["pairs"])


def test_what_few_layers_cannot_reach_is_listed() -> None:
    pairs = table("pairs")
    few, many = pairs.within(4), pairs.within(28)
    assert {each.label for each, _ in few.unreachable if each.group == "10 %"} == {
        "dart", "fastv", "holitom-merge", "pyramiddrop", "sparsevlm", "tango-fastv",
    }  # fmt: skip
    assert all("out of reach" in why for _, why in few.unreachable)
    assert len(few.runs) + len(few.unreachable) == len(pairs.runs)
    # FastV cuts at layer 2 of 28, and so reaches 1/14.
    assert "fastv" in {each.label for each in many.runs if each.group == "10 %"}
    assert not any(each.label == "fastv" for each, _ in many.unreachable)


def test_results_from_before_a_setting_was_added_still_count() -> None:
    for each in (build_run("tango", 0.1), build_run("tango+tango-fastv", 0.1)):
        older = json.loads(json.dumps(each.spec))
        settings = older["settings"]["before"] if "before" in older["settings"] else older["settings"]
        for name in ("counts", "equivalent_retention", "rope_pairs"):
            del settings[name]
        assert spec_key(older) == each.key
        settings["neighbors"] = 6
        assert spec_key(older) != each.key


def test_a_table_of_answers() -> None:
    about = load_questions(18)
    asked = [each for case in about for each in case.questions]
    chosen = Table("runs", "Title", (unpruned_run(), build_run("tango", 0.1), build_run("uniform", 0.1)))
    look = [1.0, 0.5, 0.25, 0.25, 1.0]
    right = {0: lambda number: True, 1: lambda number: number % 2 == 0, 2: lambda number: False}
    content = Content(
        headers=[HEADER],
        runs={each.key: number for number, each in enumerate(chosen.runs)},
        answers={
            (number, each.number): ScoredAnswer(number, each.number, int(right[number](each.number)), 1, 10, "x", look)
            for number in right
            for each in asked
        },
    )
    lines = summarize(chosen, about, content)
    whole, tango, uniform = lines
    assert (whole.exact.value, whole.share, whole.against_unpruned) == (1, 1, None)
    assert (tango.exact.value, tango.share, tango.against_tango) == (0.5, 0.5, None)
    assert uniform.against_tango is not None
    assert uniform.against_tango.value == -0.5
    assert tango.kinds == dict.fromkeys(KINDS, 0.5)
    rows = [row.split("|")[1:-1] for row in markdown(lines).splitlines()]
    assert len({len(row) for row in rows}) == 1
    assert [row[0].strip() for row in rows[2:]] == ["**100 %**", "all tokens", "**10 %**", "tango", "uniform"]
    assert "50.0" in rows[-2][-5]
    assert "25.0" in coverage_markdown(lines)
    text = page(chosen, lines, content.headers, coverage=True)
    assert "18 questions about" in text
    assert "torch 2" in text
    assert (len(about) < MIN_CLIPS) == ("without intervals" in text) == ("**-" not in text)
    other = HEADER | {"machine": {"cpu": "d", "cores": 4}, "versions": {"torch": "3"}}
    text = page(chosen, lines, [HEADER, other, HEADER], coverage=False)
    assert "; c, 2 cores, 1 threads; torch 2; and d, 4 cores, 1 threads; torch 3. Exact" in text
    assert lines[1].as_dict()["exact_match"][0] == 0.5


def test_a_committed_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = load_questions(9)
    monkeypatch.setattr(summary, "load_questions", lambda lengths: about)
    chosen, path = table("expansion"), tmp_path / "expansion.jsonl"
    with ResultsFile(path, HEADER) as file:
        numbers = [file.number(each) for each in chosen.runs]
        answers = [
            ScoredAnswer(n, each.number, 1, 1, 10, "x", None)
            for n in numbers
            for case in about
            for each in case.questions
        ]
        file.add(answers[:-1])
        with pytest.raises(InputError, match=r"lacks answers of expansion 3 \(10 %\)"):
            finished(path)
        file.add(answers[-1:])
    compressed = tmp_path / "expansion.jsonl.gz"
    compressed.write_bytes(gzip.compress(path.read_bytes()))
    of, lines, headers = finished(path)
    text = page(of, lines, headers, coverage=True)
    assert "| expansion 1.5 | 10 | 100.0 |" in text
    assert page(*finished(compressed), coverage=True) == text
    short = [row.split("|")[1:-1] for row in overview(lines).splitlines()]
    assert [cell.strip() for cell in short[0]] == ["method", "2 %", "5 %", "10 %"]
    assert short[-1] == [" expansion 3 ", " 100.0 ", " 100.0 ", " 100.0 "]
