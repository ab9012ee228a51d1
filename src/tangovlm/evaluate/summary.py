"""The figures of a table, computed from answers, and the table as Markdown."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tangovlm.errors import InputError
from tangovlm.pipeline.load import BUILTIN

from .coverage import TokenCoverage
from .results import Content, ScoredAnswer, benchmark_of, read
from .runs import Run
from .statistics import MIN_CLIPS, Bootstrap, Estimate, interval_json, interval_text
from .tables import Table, table
from .tangoworld import ClipQuestions, load_questions


@dataclass(frozen=True)
class Line:
    """The figures of a run.

    Parameters
    ----------
    questions, clips: number of questions, and of the clips that they are about.
    tokens: mean number of visual tokens per question.
    kinds: exact match by kind of question.
    exact: exact match over all questions.
    chosen: accuracy of the most likely choice over all questions.
    share: `exact` as a fraction of the unpruned model's.
    against_unpruned, against_tango: difference in exact match; None for the run itself, or without Tango in its group.
    coverage: means of `TokenCoverage`; None for a method inside the language model.
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
    coverage: TokenCoverage | None

    def as_dict(self) -> dict[str, Any]:
        """The line as JSON values."""
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
            "look": self.coverage and self.coverage._asdict(),
        }


def summarize(of: Table, clips: Sequence[ClipQuestions], content: Content) -> list[Line]:
    """One line per run, in the order of the table; `content` must have every answer."""
    questions = [(clip, each) for clip in clips for each in clip.questions]
    kinds = [each.question.kind for _, each in questions]
    bootstrap = Bootstrap([(clip.cell, clip.draw) for clip, _ in questions])
    answers = {
        run.key: [content.answers[content.runs[run.key], each.number] for _, each in questions] for run in of.runs
    }
    unpruned = of.runs[0]

    def difference(run: Run, other: Run | None) -> Estimate | None:
        if other is None or other.key == run.key:
            return None
        return bootstrap.mean([a.exact - b.exact for a, b in zip(answers[run.key], answers[other.key], strict=True)])

    lines = []
    for run in of.runs:
        own = answers[run.key]
        score = bootstrap.mean([answer.exact for answer in own])
        reference = sum(answer.exact for answer in answers[unpruned.key]) / len(own)
        by_kind = {
            kind: _mean([answer.exact for answer, other in zip(own, kinds, strict=True) if other == kind])
            for kind in clips[0].benchmark.kinds
            if kind in kinds
        }
        lines.append(
            Line(
                run=run,
                questions=len(own),
                clips=len(clips),
                tokens=_mean([answer.tokens for answer in own]),
                kinds=by_kind,
                exact=score,
                chosen=bootstrap.mean([answer.chosen for answer in own]),
                share=score.value / reference if reference else 0.0,
                against_unpruned=difference(run, unpruned),
                against_tango=difference(run, of.reference(run)),
                coverage=_mean_coverage(own),
            )
        )
    return lines


def markdown(lines: Sequence[Line]) -> str:
    """In the form of the paper's tables: a block per group; exact match in percent, differences with 95 % intervals."""
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


def coverage_markdown(lines: Sequence[Line]) -> str:
    """What the kept tokens cover, in percent."""
    head = ["method", "tokens", *(_COVERAGE_TITLES[name] for name in TokenCoverage._fields), "all"]

    def cells(line: Line) -> list[str]:
        shares = line.coverage or ()
        values = [f"{100 * share:.1f}" for share in shares] or [""] * len(TokenCoverage._fields)
        return [line.run.label, f"{line.tokens:.0f}", *values, f"{100 * line.exact.value:.1f}"]

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


def _mean_coverage(answers: Sequence[ScoredAnswer]) -> TokenCoverage | None:
    shares = [answer.coverage for answer in answers if answer.coverage is not None]
    if len(shares) < len(answers):
        return None
    return TokenCoverage(*(_mean(column) for column in zip(*shares, strict=True)))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def page(of: Table, lines: Sequence[Line], headers: Sequence[Mapping[str, Any]], coverage: bool) -> str:
    """The table with its title and the origin of its figures.

    Parameters
    ----------
    coverage: whether to add the table of `coverage_markdown`.
    """
    text = f"### {of.title}\n\n{markdown(lines)}\n\n{_unreachable(of)}{_origin(lines, headers)}\n"
    return text + (f"\n#### What the kept tokens cover\n\n{coverage_markdown(lines)}\n" if coverage else "")


def builtin_layers() -> int:
    """Number of layers of the embedded model's language model."""
    config = json.loads((BUILTIN / "config.json").read_text(encoding="utf-8"))
    return int(config["text_config"]["num_hidden_layers"])


def _unreachable(of: Table) -> str:
    """The runs that the model's layers cannot reach, a line per method."""
    groups: dict[tuple[str, str], list[str]] = {}
    for run, reason in of.unreachable:
        groups.setdefault((run.label, reason.partition(": the ")[2] or reason), []).append(run.group)
    items = [f"* {label} at {', '.join(group)}: the {reason}" for (label, reason), group in groups.items()]
    return "Out of reach of the layers of this model:\n\n" + "\n".join(items) + "\n\n" if items else ""


def finished(path: Path) -> tuple[Table, list[Line], Sequence[Mapping[str, Any]]]:
    """The table that a file of results is named after, its lines, and the file's headers.

    Raises
    ------
    InputError: damage, or a run that has not answered every question.
    """
    content = read(path)
    of = benchmark_of(content.headers)
    name = path.name.partition(".")[0].removesuffix(of.suffix)
    chosen = table(name, of=of).within(builtin_layers())
    clips = load_questions(lengths=chosen.lengths, benchmark=of)
    for run in chosen.runs:
        number = content.runs.get(run.key, -1)
        if any((number, each.number) not in content.answers for clip in clips for each in clip.questions):
            raise InputError(f"{path} lacks answers of {run.label} ({run.group}): run the command again")
    return chosen, summarize(chosen, clips, content), content.headers


def overview(lines: Sequence[Line]) -> str:
    """Exact match in percent, a row per method and a column per group; bold if significantly above Tango."""
    unpruned, *rest = lines
    groups = list(dict.fromkeys(line.run.group for line in rest))
    scores: dict[str, dict[str, str]] = {}
    for line in rest:
        above = line.against_tango is not None and line.against_tango.clear and line.against_tango.value > 0
        score = f"{100 * line.exact.value:.1f}"
        scores.setdefault(line.run.label, {})[line.run.group] = f"**{score}**" if above else score
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
