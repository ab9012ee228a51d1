"""A table as Markdown."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..coverage import TokenCoverage
from ..runs import Run
from ..statistics import MIN_CLIPS, interval_text
from .summary import Line
from .table import Table


def page(of: Table, lines: Sequence[Line], headers: Sequence[Mapping[str, Any]], coverage: bool) -> str:
    """The table with its title and the origin of its figures.

    Parameters
    ----------
    coverage: whether to add the table of `coverage_markdown`.
    """
    notes = f"{_QUESTION_NOTE}\n\n" if any(line.run.reads_question for line in lines) else ""
    text = f"### {title(of, headers)}\n\n{markdown(of, lines)}\n\n{notes}{_unreachable(of)}{_origin(lines, headers)}\n"
    if of.by_length:
        text += f"\n#### By length of clip\n\n{lengths_markdown(of, lines)}\n"
    return text + (f"\n#### What the kept tokens cover\n\n{coverage_markdown(lines)}\n" if coverage else "")


def title(of: Table, headers: Sequence[Mapping[str, Any]]) -> str:
    """The title of a table, with the version of the benchmark from the second on."""
    version = headers[-1]["version"]
    return of.title if version == 1 else f"{of.title}, version {version}"


_QUESTION_MARK = " \\*"
_QUESTION_NOTE = r"\* Reads the question."


def _label(run: Run) -> str:
    """The label of a run, marked if the method reads the question."""
    return run.label + _QUESTION_MARK * run.reads_question


def markdown(of: Table, lines: Sequence[Line]) -> str:
    """In the form of the paper's tables: a block per group; exact match in percent, differences with 95 % intervals."""
    kinds = list(lines[0].kinds)
    differences = [f"against {comparison.title}" for comparison in of.comparisons]
    head = ["method", "tokens", *kinds, "all", "of unpruned", "choices", *differences]

    def cells(line: Line) -> list[str]:
        return [
            _label(line.run),
            f"{line.tokens:.0f}",
            *(f"{100 * line.kinds[kind]:.1f}" for kind in kinds),
            f"{100 * line.exact.value:.1f}",
            f"{100 * line.share:.1f} %",
            f"{100 * line.chosen.value:.1f}",
            *(interval_text(line.against[comparison.name], 100) for comparison in of.comparisons),
        ]

    return _blocks(lines, head, cells)


def lengths_markdown(of: Table, lines: Sequence[Line]) -> str:
    """Exact match and mean tokens for each length of clips, and a table for each comparison but the first."""
    lengths = list(lines[0].lengths)
    titles = [f"{length} moments" for length in lengths]

    def cells(line: Line) -> list[str]:
        parts = [(line.exact, line.tokens), *((each.exact, each.tokens) for each in line.lengths.values())]
        return [_label(line.run), *(f"{100 * exact.value:.1f} ({tokens:.0f})" for exact, tokens in parts)]

    text = "Exact match in percent, and mean tokens in parentheses.\n\n" + _blocks(
        lines, ["method", "all", *titles], cells
    )
    for comparison in of.comparisons[1:]:

        def differences(line: Line, name: str = comparison.name) -> list[str]:
            parts = [line.against[name], *(each.against[name] for each in line.lengths.values())]
            return [_label(line.run), f"{line.tokens:.0f}", *(interval_text(part, 100) for part in parts)]

        compared = [line for line in lines if line.against[comparison.name] is not None]
        if compared:
            head = ["method", "tokens", "all", *titles]
            text += f"\n\nAgainst {comparison.title}:\n\n{_blocks(compared, head, differences)}"
    return text


def coverage_markdown(lines: Sequence[Line]) -> str:
    """What the kept tokens cover, in percent."""
    head = ["method", "tokens", *(_COVERAGE_TITLES[name] for name in TokenCoverage._fields), "all"]

    def cells(line: Line) -> list[str]:
        shares = line.coverage or ()
        values = [f"{100 * share:.1f}" for share in shares] or [""] * len(TokenCoverage._fields)
        return [_label(line.run), f"{line.tokens:.0f}", *values, f"{100 * line.exact.value:.1f}"]

    return _blocks(lines, head, cells)


_COVERAGE_TITLES = {
    "found": "asked things found",
    "cover": "their cells kept",
    "things": "kept on things",
    "decoys": "kept on decoys",
    "frames": "frames used",
}


def _blocks(lines: Sequence[Line], head: Sequence[str], cells: Callable[[Line], list[str]]) -> str:
    out = [_row(head), _row(["---"] + ["---:"] * (len(head) - 1))]
    group = None
    for line in lines:
        if line.run.group != group:
            group = line.run.group
            out.append(_row([f"**{group}**"] + [""] * (len(head) - 1)))
        out.append(_row(cells(line)))
    return "\n".join(out)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def overview(lines: Sequence[Line]) -> str:
    """Exact match in percent, a row per method and a column per group; bold if significantly above Tango."""
    unpruned, *rest = lines
    groups = list(dict.fromkeys(line.run.group for line in rest))
    scores: dict[str, dict[str, str]] = {}
    for line in rest:
        difference = line.against["tango"]
        above = difference is not None and difference.clear and difference.value > 0
        score = f"{100 * line.exact.value:.1f}"
        scores.setdefault(_label(line.run), {})[line.run.group] = f"**{score}**" if above else score
    rows = [_row([label, *(by_group.get(group, "") for group in groups)]) for label, by_group in scores.items()]
    top = _row([unpruned.run.label, *[f"{100 * unpruned.exact.value:.1f}"] * len(groups)])
    return "\n".join([_row(["method", *groups]), _row(["---"] + ["---:"] * len(groups)), top, *rows])


def _origin(lines: Sequence[Line], headers: Sequence[Mapping[str, Any]]) -> str:
    """The model, benchmark, machines and versions that the figures come from."""
    last, clips = headers[-1], lines[0].clips
    seed = f", seed {last['seed']}" if "seed" in last else ""
    machines = "; and ".join(dict.fromkeys(map(_machine, headers)))
    intervals = (
        "differences in points with 95 % intervals by paired bootstrap over clips, bold where zero is outside"
        if clips >= MIN_CLIPS
        else f"differences in points, without intervals for fewer than {MIN_CLIPS} clips"
    )
    return (
        f"{lines[0].questions} questions about {clips} clips of {last['benchmark']} {last['version']}{seed}; "
        f"{last['model']} ({last['weights'][:12]}), {last['dtype']}; {machines}. Exact match in percent; {intervals}."
    )


def _machine(header: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in header["versions"].items())
    machine = header["machine"]["cpu"] if header["device"] == "cpu" else header["device"]
    return f"{machine}, {header['machine']['cores']} cores, {header['threads']} threads; {versions}"


def _unreachable(of: Table) -> str:
    """The runs that the model's layers cannot reach, a line per method."""
    groups: dict[tuple[str, str], list[str]] = {}
    for run, reason in of.unreachable:
        groups.setdefault((run.label, reason.partition(": the ")[2] or reason), []).append(run.group)
    items = [f"* {label} at {', '.join(group)}: the {reason}" for (label, reason), group in groups.items()]
    return "Out of reach of the layers of this model:\n\n" + "\n".join(items) + "\n\n" if items else ""
