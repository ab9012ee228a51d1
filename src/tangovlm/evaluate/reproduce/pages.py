"""A table as Markdown and as a self-contained HTML page."""

from collections.abc import Sequence
from html import escape
from importlib.resources import files

from ..statistics import interval_text
from .benchmarks import Benchmark
from .compare import Line, notes
from .cost import kept_tokens
from .models import TINY
from .paper import UNKNOWN, Paper
from .planning import Plan

_AGAINST = ("against all tokens", "against Tango")
_TIMES = {
    "other_ms": "encoding ms",
    "prefill_ms": "prefill ms",
    "ttft_ms": "first token ms",
    "peak_memory_gb": "peak GB",
}
"""Columns of a table of times, from `times.means`; in the records of harnesses "other_ms" includes the encoder."""
_TINY_NOTE = (
    "The embedded model's data sets ask the same questions in the formats of the four benchmarks. The intervals treat "
    "them as independent, so they are too narrow. These figures cannot be compared with the paper's."
)


def markdown(plan: Plan, lines: Sequence[Line], paper: Paper, headings: Sequence[str]) -> str:
    """The page as Markdown.

    Parameters
    ----------
    headings: sentences on the origin of the figures.
    """
    return "\n\n".join(
        [
            f"### {plan.title}",
            "\n".join([_row(_head(plan)), _rule(plan), *(_row(cells) for cells in _cells(plan, lines))]),
            *_paragraphs(plan, lines, paper, headings),
            "",
        ]
    )


def html(plan: Plan, lines: Sequence[Line], paper: Paper, headings: Sequence[str]) -> str:
    """The page as HTML; all text is escaped, and no other file is loaded."""
    style = files("tangovlm.report").joinpath("page", "page.css").read_text(encoding="utf-8")
    head = "".join(f"<th>{escape(cell)}</th>" for cell in _head(plan))
    body = "".join(f"<tr>{''.join(f'<td>{_bold(cell)}</td>' for cell in cells)}</tr>" for cells in _cells(plan, lines))
    paragraphs = "".join(f"<p>{escape(each)}</p>" for each in _paragraphs(plan, lines, paper, headings))
    settings = "".join(
        f"<tr><td>{escape(line.step.row.key)}</td><td>{escape(_settings(line))}</td></tr>" for line in lines
    )
    return (
        "<!doctype html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n"
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(plan.title)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f"<h1>{escape(plan.title)}</h1>\n<div class=scroll><table class=figures><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>\n{paragraphs}\n<h2>Settings</h2>\n<div class=scroll><table class=text>"
        f"<tbody>{settings}</tbody></table></div>\n</body>\n</html>\n"
    )


def _columns(plan: Plan) -> list[tuple[str, str]]:
    """Names of the accuracy columns in `Line.ours`, with their titles."""
    columns = []
    for each in plan.benchmarks:
        columns += [(f"{each.name}/{group}", f"{each.title.split(' (')[0]} {group}") for group in each.groups]
        columns.append((each.name, each.title))
    return [*columns, ("average", "average")]


def _head(plan: Plan) -> list[str]:
    titles = [title for _, title in _columns(plan)]
    times = [*_TIMES.values(), "times faster", "paper: times faster"] if plan.table.profile else []
    return ["method", "kept", "tokens", *titles, "of all tokens", "paper: of all tokens", *_AGAINST, *times]


def _rule(plan: Plan) -> str:
    return _row(["---"] + ["---:"] * (len(_head(plan)) - 1))


def _cells(plan: Plan, lines: Sequence[Line]) -> list[list[str]]:
    rows = []
    for line in lines:
        row = line.step.row
        published = line.published.get("percent_of_baseline")
        if line.step.resolved.unreachable is not None:
            figures = [f"unreachable: {line.step.resolved.unreachable}", *[""] * (len(_columns(plan)) - 1)]
        elif line.results is None:
            figures = ["not run", *[""] * (len(_columns(plan)) - 1)]
        else:
            figures = [_figure(line, name) for name, _ in _columns(plan)]
        rows.append(
            [
                row.label,
                row.group,
                str(kept_tokens(line.step.resolved, plan.shape)),
                *figures,
                "" if line.share is None else f"{line.share:.1f} %",
                UNKNOWN if published is None else f"{published:.1f} %",
                interval_text(line.against_baseline),
                interval_text(line.against_tango),
                *(_times(line) if plan.table.profile else ()),
            ]
        )
    return rows


def _figure(line: Line, name: str) -> str:
    """Our figure, with the paper's and the difference if the paper's is known."""
    own, published = line.ours.get(name), line.published.get(name)
    if own is None:
        return ""
    if published is None:
        return f"{own:.1f}"
    return f"{own:.1f} (paper {published:.1f}, {own - published:+.1f})"


def _times(line: Line) -> list[str]:
    measured = {} if line.results is None else line.results.measured
    published = line.published.get("speedup")
    return [
        *(f"{measured[name]:.2f}" if name in measured else "" for name in _TIMES),
        "" if line.speedup is None else f"{line.speedup:.2f}",
        UNKNOWN if published is None else f"{published:.2f}",
    ]


def _paragraphs(plan: Plan, lines: Sequence[Line], paper: Paper, headings: Sequence[str]) -> list[str]:
    asked = ", ".join(f"{each.title} {_question_counts(lines, each)}" for each in plan.benchmarks)
    measured = [name for name, _ in _columns(plan)]
    known = sum(name in line.published for line in lines for name in measured)
    unknown = (
        f"The paper's number is {UNKNOWN} for {len(lines) * len(measured) - known} of {len(lines) * len(measured)} "
        "figures; docs/reproducing.md describes how to add them."
    )
    sources = paper.sources(plan.table.name, tuple(line.step.row for line in lines))
    return [
        f"{plan.shape.model}; questions asked: {asked}. Percent of correct answers as judged by the harness; each row "
        "as a share of the unpruned model's average in the same run; differences in points with 95 % intervals by "
        "paired bootstrap over videos, bold where zero is outside, without intervals for few videos.",
        *headings,
        *([_TINY_NOTE] if plan.shape.model == TINY else []),
        unknown,
        *(["Published numbers: " + "; ".join(sources) + "."] if sources else []),
        *notes(lines),
    ]


def _question_counts(lines: Sequence[Line], benchmark: Benchmark) -> str:
    """The number of questions per row; all numbers if the rows differ."""
    counts = sorted({len(line.results.of(benchmark.name)) for line in lines if line.results is not None})
    return " or ".join(map(str, counts)) or "none"


def _settings(line: Line) -> str:
    return ", ".join(f"{name}={value}" for name, value in line.step.resolved.settings.items())


def _bold(cell: str) -> str:
    """A Markdown cell as HTML."""
    before, mark, rest = escape(cell).partition("**")
    if not mark:
        return before
    inside, _, after = rest.partition("**")
    return f"{before}<b>{inside}</b>{after}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
