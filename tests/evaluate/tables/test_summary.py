"""The figures of a table and how they look."""

import gzip
import re
from pathlib import Path

import pytest

from tangovlm.errors import InputError
from tangovlm.evaluate.results import Content, ResultsFile, ScoredAnswer
from tangovlm.evaluate.runs import Run, build_run, unpruned_run
from tangovlm.evaluate.statistics import MIN_CLIPS
from tangovlm.evaluate.tables import Table, table
from tangovlm.evaluate.tables.comparison import AllTokens, FixedCounts
from tangovlm.evaluate.tables.markdown import coverage_markdown, lengths_markdown, markdown, overview, page, title
from tangovlm.evaluate.tables.summary import Line, finished, summarize
from tangovlm.evaluate.tangoworld import ClipQuestions, load_questions
from tangovlm.tiny.synthetic.questions import KINDS
from tests.evaluate.tables.adaptive_method import Adaptive

HEADER = {
    "benchmark": "b", "version": 1, "questions": "q", "model": "m", "weights": "0123456789abcdef", "dtype": "float32",
    "device": "cpu", "machine": {"cpu": "c", "cores": 2}, "threads": 1, "versions": {"torch": "2"},
}  # fmt: skip


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
    assert (whole.exact.value, whole.share, whole.against["unpruned"]) == (1, 1, None)
    assert (tango.exact.value, tango.share, tango.against["tango"]) == (0.5, 0.5, None)
    assert uniform.against["tango"] is not None
    assert uniform.against["tango"].value == -0.5
    assert tango.kinds == dict.fromkeys(KINDS, 0.5)
    rows = [row.split("|")[1:-1] for row in markdown(chosen, lines).splitlines()]
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
    assert title(chosen, [HEADER]) == "Title"
    assert page(chosen, lines, [HEADER | {"version": 2}], coverage=False).startswith("### Title, version 2\n")
    assert "; c, 2 cores, 1 threads; torch 2; and d, 4 cores, 1 threads; torch 3. Exact" in text
    assert lines[1].as_dict()["exact_match"][0] == 0.5


def test_a_committed_file_has_the_first_questions(tmp_path: Path) -> None:
    about = load_questions(9)
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
        assert finished(path)[1][0].questions == 9
        file.add([ScoredAnswer(n, 10, 1, 1, 10, "x", None) for n in numbers])
    with pytest.raises(InputError, match=r"lacks answers of all tokens"):
        finished(path)
    path.write_text("".join(line for line in path.open() if not re.match(r"\[\d+, 10,", line)))
    compressed = tmp_path / "expansion.jsonl.gz"
    compressed.write_bytes(gzip.compress(path.read_bytes()))
    of, lines, headers = finished(path)
    text = page(of, lines, headers, coverage=True)
    assert "| expansion 1.5 | 10 | 100.0 |" in text
    assert page(*finished(compressed), coverage=True) == text
    short = [row.split("|")[1:-1] for row in overview(lines).splitlines()]
    assert [cell.strip() for cell in short[0]] == ["method", "2 %", "5 %", "10 %"]
    assert short[-1] == [" expansion 3 ", " 100.0 ", " 100.0 ", " 100.0 "]


@pytest.fixture(scope="module")
def adaptive() -> tuple[Table, list[Line], tuple[ClipQuestions, ...]]:
    """All answers right with all tokens and adaptive counts, none with fixed ones; clips of all lengths."""
    about = load_questions()
    runs = [unpruned_run()]
    runs += [Run(f"fixed {n}", "fixed", Adaptive(n, threshold=None)) for n in (0.1, 0.2)]
    runs += [Run("following", "adaptive", Adaptive(0.2, threshold=1))]
    chosen = Table("t", "Title", tuple(runs), comparisons=(AllTokens(), FixedCounts()), by_length=True)
    tokens = (lambda length: 64 * length, lambda length: length, lambda length: 3 * length, lambda length: 40)
    content = Content([HEADER], {each.key: number for number, each in enumerate(runs)}, {})
    for number, count in enumerate(tokens):
        for case in about:
            for each in case.questions:
                answer = ScoredAnswer(number, each.number, int(number in (0, 3)), 1, count(case.length), "x", None)
                content.answers[number, each.number] = answer
    return chosen, summarize(chosen, about, content), about


def test_figures_by_length(adaptive: tuple[Table, list[Line], tuple[ClipQuestions, ...]]) -> None:
    _, lines, about = adaptive
    for line in lines:
        assert list(line.lengths) == [8, 16, 32, 64]
        assert sum(each.questions for each in line.lengths.values()) == line.questions == 1080
        share = sum(each.questions * each.exact.value for each in line.lengths.values()) / line.questions
        assert share == pytest.approx(line.exact.value)
        mean = sum(each.questions * each.tokens for each in line.lengths.values()) / line.questions
        assert mean == pytest.approx(line.tokens)
    assert [each.tokens for each in lines[0].lengths.values()] == [512, 1024, 2048, 4096]
    against = [line.against["fixed"] for line in lines]
    assert against[:3] == [None] * 3
    assert against[3] is not None and (against[3].value, against[3].low) == (1, 1)
    by_length = lines[3].as_dict()["by_length"]
    assert by_length["8"]["against_fixed"] == [1, 1, 1]
    assert by_length["64"]["tokens"] == 40
    assert {case.length for case in about} == {8, 16, 32, 64}


def test_the_page_has_a_table_by_length(adaptive: tuple[Table, list[Line], tuple[ClipQuestions, ...]]) -> None:
    chosen, lines, _ = adaptive
    text = page(chosen, lines, [HEADER], coverage=False)
    assert "| against unpruned | against fixed counts |" in text
    assert "#### By length of clip" in text
    assert "| method | all | 8 moments | 16 moments | 32 moments | 64 moments |" in text
    assert "| following | 100.0 (40) | 100.0 (40) |" in text
    (table_of_differences,) = text.split("Against fixed counts:")[1:]
    assert "following" in table_of_differences and "fixed 0.1" not in table_of_differences
    assert "| following | 40 | **+100.0** [+100.0, +100.0] |" in table_of_differences
    assert lengths_markdown(chosen, lines) in text


def test_no_difference_where_a_question_has_no_reference() -> None:
    about = load_questions(108)
    runs = [unpruned_run(), Run("fixed", "f", Adaptive(0.1, threshold=None))]
    runs += [Run("fixed more", "f", Adaptive(0.2, threshold=None)), Run("following", "a", Adaptive(0.2, threshold=1))]
    chosen = Table("t", "Title", tuple(runs), comparisons=(AllTokens(), FixedCounts(per_length=True)), by_length=True)
    counts = (lambda n: 64 * n, lambda n: n, lambda n: 2 * n, lambda n: 20)
    content = Content([HEADER], {each.key: number for number, each in enumerate(runs)}, {})
    for number, count in enumerate(counts):
        for case in about:
            for each in case.questions:
                row = ScoredAnswer(number, each.number, 1, 1, count(case.length), "x", None)
                content.answers[number, each.number] = row
    line = summarize(chosen, about, content)[-1]
    # 20 tokens lie between those of 16 moments only.
    assert line.against["fixed_per_length"] is None
    assert [each.against["fixed_per_length"] is None for each in line.lengths.values()] == [True, False, True, True]


def test_methods_that_read_the_question_are_marked() -> None:
    about = load_questions(9)
    chosen = Table("t", "Title", (unpruned_run(), build_run("tango", 0.75), build_run("fastv", 0.75)))
    content = Content([HEADER], {each.key: number for number, each in enumerate(chosen.runs)}, {})
    for number in range(3):
        for each in (each for case in about for each in case.questions):
            content.answers[number, each.number] = ScoredAnswer(number, each.number, 1, 1, 9, "x", None)
    lines = summarize(chosen, about, content)
    text = page(chosen, lines, [HEADER], coverage=True)
    assert text.count("| fastv \\* |") == 2
    assert "tango \\*" not in text and "all tokens \\*" not in text
    assert "\n\\* Reads the question.\n" in text
    assert "fastv \\* |" in overview(lines)
    assert "Reads the question" not in page(chosen, lines[:2], [HEADER], coverage=True)
    assert [line.as_dict()["reads_question"] for line in lines] == [False, False, True]
