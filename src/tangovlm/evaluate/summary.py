"""From answers to the figures of a table, and to Markdown."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tangovlm.errors import InputError
from tangovlm.pipeline.load import BUILTIN
from tangovlm.tiny.synthetic.questions import KINDS

from .look import Look
from .results import Content, Row, read
from .runs import Run
from .statistics import MIN_CLIPS, Bootstrap, Estimate, interval_json, interval_text
from .tables import Table, table
from .task import Case, cases


@dataclass(frozen=True)
class Line:
    """The figures of a run.

    Parameters
    ----------
    questions, clips: how many were asked, and about how many clips.
    tokens: visual tokens, the mean over questions.
    kinds: exact match by kind of question.
    exact: exact match over all questions. chosen: the same of the likeliest choice.
    share: `exact` as a share of the unpruned model's.
    against_unpruned, against_tango: difference in exact match; None for the run itself, or without Tango in its group.
    look: means of `Look`, None for a method inside the language model.
    """

    run: Run
    questions: int
    clips: int
    tokens: float
    kinds: dict[str, float]
    exact: Estimate
    chosen: Estimate
    share: float
    against_unpruned: Estimate | None
    against_tango: Estimate | None
    look: Look | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "label": self.run.label,
            "group": self.run.group,
            **self.run.spec,
            "retention": self.run.pruner.retention,
            "questions": self.questions,
            "clips": self.clips,
            "tokens": self.tokens,
            "by_kind": self.kinds,
            "exact_match": interval_json(self.exact),
            "choices": interval_json(self.chosen),
            "share_of_unpruned": self.share,
            "against_unpruned": interval_json(self.against_unpruned),
            "against_tango": interval_json(self.against_tango),
            "look": self.look and self.look._asdict(),
        }


def summarize(of: Table, about: Sequence[Case], content: Content) -> list[Line]:
    """One line a run, in the order of the table; the file must hold every answer."""
    asked = [(case, each) for case in about for each in case.asked]
    kinds = [each.question.kind for _, each in asked]
    bootstrap = Bootstrap([(case.cell, case.draw) for case, _ in asked])
    rows = {run.key: [content.rows[content.runs[run.key], each.number] for _, each in asked] for run in of.runs}
    first = of.runs[0]

    def difference(run: Run, other: Run | None) -> Estimate | None:
        if other is None or other.key == run.key:
            return None
        return bootstrap.mean([a.exact - b.exact for a, b in zip(rows[run.key], rows[other.key], strict=True)])

    lines = []
    for run in of.runs:
        own = rows[run.key]
        score = bootstrap.mean([row.exact for row in own])
        whole = sum(row.exact for row in rows[first.key]) / len(own)
        by_kind = {
            kind: _mean([row.exact for row, other in zip(own, kinds, strict=True) if other == kind])
            for kind in KINDS
            if kind in kinds
        }
        lines.append(
            Line(
                run=run,
                questions=len(own),
                clips=len(about),
                tokens=_mean([row.tokens for row in own]),
                kinds=by_kind,
                exact=score,
                chosen=bootstrap.mean([row.chosen for row in own]),
                share=score.value / whole if whole else 0.0,
                against_unpruned=difference(run, first),
                against_tango=difference(run, of.reference(run)),
                look=_look(own),
            )
        )
    return lines


def markdown(lines: Sequence[Line]) -> str:
    """Shaped as the paper's tables: a block for each group; exact match in percent, differences with 95 % intervals."""
    kinds = list(lines[0].kinds)
    head = ["method", "tokens", *kinds, "all", "of unpruned", "choices", "against unpruned", "against Tango"]

    def cells(line: Line) -> list[str]:
        return [
            line.run.label,
            f"{line.tokens:.0f}",
            *(f"{100 * line.kinds[kind]:.1f}" for kind in kinds),
            f"{100 * line.exact.value:.1f}",
            f"{100 * line.share:.1f} %",
            f"{100 * line.chosen.value:.1f}",
            interval_text(line.against_unpruned, 100),
            interval_text(line.against_tango, 100),
        ]

    return _blocks(lines, head, cells)


def look_markdown(lines: Sequence[Line]) -> str:
    """What the kept tokens lie on, in percent."""
    head = ["method", "tokens", *(_LOOK_WORDS[name] for name in Look._fields), "all"]

    def cells(line: Line) -> list[str]:
        seen = ["" for _ in Look._fields] if line.look is None else [f"{100 * value:.1f}" for value in line.look]
        return [line.run.label, f"{line.tokens:.0f}", *seen, f"{100 * line.exact.value:.1f}"]

    return _blocks(lines, head, cells)


_LOOK_WORDS = {
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


def _look(rows: Sequence[Row]) -> Look | None:
    seen = [row.look for row in rows]
    if any(look is None for look in seen):
        return None
    return Look(*(_mean(column) for column in zip(*(look for look in seen if look is not None), strict=True)))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def page(of: Table, lines: Sequence[Line], headers: Sequence[Mapping[str, Any]], look: bool) -> str:
    """The table with its title and where it comes from, and what was looked at if asked for."""
    text = f"### {of.title}\n\n{markdown(lines)}\n\n{_beyond(of)}{_source(lines, headers)}\n"
    return text + (f"\n#### What the kept tokens lie on\n\n{look_markdown(lines)}\n" if look else "")


def builtin_layers() -> int:
    """Layers of the language model of the embedded model."""
    config = json.loads((BUILTIN / "config.json").read_text(encoding="utf-8"))
    return int(config["text_config"]["num_hidden_layers"])


def _beyond(of: Table) -> str:
    """What the model cannot reach, a line for each method."""
    groups: dict[tuple[str, str], list[str]] = {}
    for run, reason in of.unreachable:
        groups.setdefault((run.label, reason.partition(": the ")[2] or reason), []).append(run.group)
    told = [f"* {label} at {', '.join(where)}: the {reason}" for (label, reason), where in groups.items()]
    return "Out of reach of the layers of this model:\n\n" + "\n".join(told) + "\n\n" if told else ""


def finished(path: Path) -> tuple[Table, list[Line], Sequence[Mapping[str, Any]]]:
    """The table that a file of results is named after, its lines, and the file's headers.

    Raises
    ------
    InputError: damage, or a run that has not answered every question.
    """
    chosen, content = table(path.name.partition(".")[0]).within(builtin_layers()), read(path)
    asked = cases(lengths=chosen.lengths)
    for run in chosen.runs:
        number = content.runs.get(run.key, -1)
        if any((number, each.number) not in content.rows for case in asked for each in case.asked):
            raise InputError(f"{path} lacks answers of {run.label} ({run.group}): give the command again")
    return chosen, summarize(chosen, asked, content), content.headers


def overview(lines: Sequence[Line]) -> str:
    """Exact match in percent, a row for each method and a column for each group; bold where clearly above Tango."""
    whole, *rest = lines
    groups = list(dict.fromkeys(line.run.group for line in rest))
    scores: dict[str, dict[str, str]] = {}
    for line in rest:
        above = line.against_tango is not None and line.against_tango.clear and line.against_tango.value > 0
        score = f"{100 * line.exact.value:.1f}"
        scores.setdefault(line.run.label, {})[line.run.group] = f"**{score}**" if above else score
    rows = [_row([label, *(by_group.get(group, "") for group in groups)]) for label, by_group in scores.items()]
    top = _row([whole.run.label, *[f"{100 * whole.exact.value:.1f}"] * len(groups)])
    return "\n".join([_row(["method", *groups]), _row(["---"] + ["---:"] * len(groups)), top, *rows])


def _source(lines: Sequence[Line], headers: Sequence[Mapping[str, Any]]) -> str:
    """Where the figures come from; all machines and versions, if the answers were gathered on several."""
    last, clips = headers[-1], lines[0].clips
    places = "; and ".join(dict.fromkeys(map(_place, headers)))
    intervals = (
        "differences in points with 95 % intervals by paired bootstrap over clips, bold where zero is outside"
        if clips >= MIN_CLIPS
        else f"differences in points, without intervals for fewer than {MIN_CLIPS} clips"
    )
    return (
        f"{lines[0].questions} questions about {clips} clips of {last['benchmark']} {last['version']}; "
        f"{last['model']} ({last['weights'][:12]}), {last['dtype']}; {places}. Exact match in percent; {intervals}."
    )


def _place(header: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in header["versions"].items())
    machine = header["machine"]["cpu"] if header["device"] == "cpu" else header["device"]
    return f"{machine}, {header['machine']['cores']} cores, {header['threads']} threads; {versions}"
