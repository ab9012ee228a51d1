"""Tables that fit a terminal: lines break between words only, and columns that do not fit continue in another table."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

_GAP = 2
_NUMBER = re.compile(r"([-+]?[\d,]+(\.\d+)?( ?%)?( \[.*\])?)?")
_BOLD = re.compile(r"\*\*(.+?)\*\*")


def markdown_blocks(page: str, width: int) -> Iterator[RenderableType]:
    """Yield the parts of a Markdown page for a terminal of this width: tables that fit, headings, and paragraphs.

    Only the marks that pages of this library have are read: tables, headings, bold text, and escaped asterisks.
    """
    lines = page.strip().split("\n")
    while lines:
        if lines[0].startswith("|"):
            count = next((place for place, line in enumerate(lines) if not line.startswith("|")), len(lines))
            head, _, *rows = (_cells(line) for line in lines[:count])
            yield from fitted(head, rows, width)
            lines = lines[count:]
        else:
            line = lines.pop(0)
            yield _marked(f"**{line.lstrip('# ')}**" if line.startswith("#") else line)


def fitted(head: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Iterator[Table]:
    """Yield tables of at most `width` characters; several have the columns that identify a row and some others each.

    These are the fewest first columns in which all rows differ, without those that are equal in all; the first alone if
    there are none, or if they need more than half the width. A word is never broken: a table is wider if a single
    column needs it. Titles are put on several lines.

    Parameters
    ----------
    head: titles of the columns.
    rows: cells, which may contain bold text in the form of Markdown.
    """
    columns = [_Column(title, [row[place] for row in rows]) for place, title in enumerate(head)]
    if sum(column.natural + _GAP for column in columns) - _GAP <= width:
        yield _table([(column, column.natural) for column in columns])
        return
    keys = _identifying(columns, width // 2)
    most = width // 3 if len(keys) == 1 else width // (2 * len(keys))
    labels = [(column, max(column.least, min(column.natural, most))) for column in keys]
    others = [column for column in columns if column not in keys]
    if not others:
        yield _table(labels)
    while others:
        shown: list[tuple[_Column, int]] = []
        left = width - sum(size + _GAP for _, size in labels) + _GAP
        while others and (not shown or others[0].natural + _GAP <= left):
            column = others.pop(0)
            shown.append((column, max(column.least, min(column.natural, left - _GAP))))
            left -= shown[-1][1] + _GAP
        yield _table([*labels, *shown])


def _identifying(columns: Sequence[_Column], width: int) -> Sequence[_Column]:
    """The first columns that identify a row, as all rows differ in them, without those that are equal in all rows.

    The first column alone if there are none that fit this width.
    """
    cells = [[cell.plain for cell in column.cells] for column in columns]
    for count in range(1, len(columns)):
        rows = set(zip(*cells[:count], strict=True))
        if len(rows) == len(cells[0]):
            keys = [column for column, texts in zip(columns[:count], cells, strict=False) if len(set(texts)) > 1]
            return keys if keys and sum(column.least + _GAP for column in keys) <= width else columns[:1]
    return columns[:1]


class _Column:
    """A column and its widths: `natural` for cells on one line each, `least` for one word on each line."""

    def __init__(self, title: str, cells: Sequence[str]) -> None:
        self.title, self.cells = title, [_marked(cell) for cell in cells]
        texts = [cell.plain for cell in self.cells]
        # A column of numbers is narrow: its title is put on several lines.
        self.numeric = all(_NUMBER.fullmatch(text) for text in texts)
        titles = [len(word) for word in title.split()] if self.numeric else [len(title)]
        self.natural = max([1, *titles, *(len(text) for text in texts)])
        words = [len(word) for text in (title, *texts) for word in text.split()]
        self.least = max([1, *words, *(len(text) for text in texts if self.numeric)])


def _table(columns: Sequence[tuple[_Column, int]]) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, collapse_padding=True)
    for column, width in columns:
        table.add_column(column.title, width=width, justify="right" if column.numeric else "left", vertical="bottom")
    for cells in zip(*(column.cells for column, _ in columns), strict=True):
        table.add_row(*cells)
    return table


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split(" |")]


def _marked(text: str) -> Text:
    """The text with its bold parts; other marks are not read."""
    from rich.text import Text

    parts = _BOLD.split(text.replace("\\*", "*") if "\\*" in text else text)
    return Text.assemble(*((part, "bold" if place % 2 else "") for place, part in enumerate(parts)))
