"""Tables that fit a terminal: nothing is lost, and no word is broken."""

import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from tangovlm.cli import catalog
from tangovlm.cli.fitted import fitted, markdown_blocks
from tangovlm.cli.output import columns
from tests.cli.conftest import Run

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
HEAD = ["name", "long title", "size", "place"]
ROWS = [["first of all", "1,234.6", "5", "org/a-checkpoint-v1.5-hf"], ["2nd", "", "1,000", "here"]]


def printed(blocks: Iterator[RenderableType], width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    for block in blocks:
        console.print(block)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return [line.rstrip() for line in text.splitlines()]


def test_wide_enough() -> None:
    assert printed(fitted(HEAD, ROWS, 60), 60) == [
        "                 long",
        "name            title   size  place",
        "first of all  1,234.6      5  org/a-checkpoint-v1.5-hf",
        "2nd                    1,000  here",
    ]


def test_columns_continue_below() -> None:
    assert printed(fitted(HEAD, ROWS, 40), 40) == [
        "                 long",
        "name            title   size",
        "first of all  1,234.6      5",
        "2nd                    1,000",
        "name          place",
        "first of all  org/a-checkpoint-v1.5-hf",
        "2nd           here",
    ]


def test_each_part_has_the_columns_that_identify_a_row() -> None:
    head = ["variant of the method", "figure", "mean", "low", "lowest of all"]
    cells = [
        ["one", "pieces", "1.5", "1", "0.25"],
        ["one", "whole", "2.5", "2", "0.5"],
        ["two", "whole", "3", "2", "0"],
    ]
    assert printed(fitted(head, cells, 34), 34) == [
        "variant",
        "of the",
        "method    figure  mean  low",
        "one       pieces   1.5    1",
        "one       whole    2.5    2",
        "two       whole      3    2",
        "variant",
        "of the            lowest",
        "method    figure  of all",
        "one       pieces    0.25",
        "one       whole      0.5",
        "two       whole        0",
    ]
    # A column that is equal in all rows identifies none.
    equal = [["same", *row] for row in cells]
    lines = printed(fitted(["layer", *head], equal, 34), 34)
    assert sum("same" in line for line in lines) == 3
    assert sum(line.startswith("one       pieces") for line in lines) == 2
    # Rows that are equal in all columns are identified by none.
    assert printed(fitted(HEAD, [ROWS[1], ROWS[1]], 20), 20).count("2nd   here") == 2


@pytest.mark.parametrize("width", [60, 72, 80, 120, 400])
@pytest.mark.parametrize("name", ["methods", "frames"])
def test_pages_of_results(width: int, name: str) -> None:
    page = (RESULTS / f"{name}.md").read_text(encoding="utf-8")
    lines = printed(markdown_blocks(page, width), width)
    assert max(map(len, lines)) <= width
    words = {word for line in lines for word in line.split()}
    wanted = set(re.sub(r"\*\*|\||^#+|^-+:?$", " ", page.replace("\\*", "*"), flags=re.MULTILINE).split())
    assert {word for word in wanted if not re.fullmatch(r"-+:?", word)} <= words
    assert not any(mark in word for word in words for mark in ("**", "|", "---"))


@pytest.mark.parametrize("width", [60, 80])
def test_lists_break_no_name(tangovlm_command: Run, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    methods, models = tangovlm_command("methods").out, tangovlm_command("models").out
    assert all(len(line) <= width for line in methods.splitlines())
    saved = catalog.saved()
    names = {part for card in saved.methods for part in (card.name, card.paper, *card.reads.replace(",", "").split())}
    assert names <= set(methods.replace(",", "").split()) | {""}
    ids = {part for card in saved.models for part in (card.family, *card.architectures, *card.checkpoints)}
    assert ids <= set(models.split())


@pytest.mark.parametrize("width", [60, 80])
def test_columns_of_answers_break_no_method(width: int) -> None:
    table = columns("", "all tokens", "tango+tango-fastv, at most 10 %")
    table.add_row("answer", "The video shows a long thing. " * 6, "A man is walking. " * 5)
    table.add_row("vision encoder (ms)", "123.4", "12.3")
    lines = printed(iter([table]), width)
    assert max(map(len, lines)) <= width
    assert "tango+tango-fastv," in " ".join(lines).split()
    assert "encoder" in " ".join(lines).split()


def test_a_single_column_that_is_wider_than_the_terminal_is_shown() -> None:
    (table,) = fitted(["a"], [["x" * 100]], 80)
    assert any("x" * 100 in line for line in printed(iter([table]), 120))
