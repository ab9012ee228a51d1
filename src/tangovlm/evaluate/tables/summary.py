"""The figures of a table, computed from answers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tangovlm.errors import InputError
from tangovlm.pipeline.load import embedded_folder

from ..coverage import TokenCoverage
from ..results import Content, ScoredAnswer, benchmark_of, read
from ..runs import Run
from ..statistics import Bootstrap, Estimate, interval_json
from ..tangoworld import OFFICIAL, Benchmark, ClipQuestions, load_questions
from .catalog import table
from .comparison import Answers, Values
from .table import Table

Differences = Mapping[str, Estimate | None]
"""`Comparison.name` to a difference in exact match; None without a reference, or for the reference itself."""


@dataclass(frozen=True)
class LengthFigures:
    """The figures of a run on clips of one length.

    Parameters
    ----------
    questions: number of questions.
    tokens: mean number of visual tokens per question.
    exact: exact match.
    against: differences in exact match.
    """

    questions: int
    tokens: float
    exact: Estimate
    against: Differences

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {
            "questions": self.questions,
            "tokens": self.tokens,
            "exact_match": interval_json(self.exact),
            **_differences_json(self.against),
        }


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
    against: differences in exact match over all questions.
    lengths: by the length of the clips in moments.
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
    against: Differences
    lengths: dict[int, LengthFigures]
    coverage: TokenCoverage | None

    def as_dict(self) -> dict[str, Any]:
        """The line as JSON values."""
        return {
            "label": self.run.label,
            "group": self.run.group,
            **self.run.spec,
            "retention": self.run.pruner.retention,
            "adaptive": self.run.adaptive,
            "reads_question": self.run.reads_question,
            "questions": self.questions,
            "clips": self.clips,
            "tokens": self.tokens,
            "by_kind": self.kinds,
            "by_length": {str(length): figures.as_dict() for length, figures in self.lengths.items()},
            "exact_match": interval_json(self.exact),
            "choices": interval_json(self.chosen),
            "share_of_unpruned": self.share,
            **_differences_json(self.against),
            "look": self.coverage and self.coverage._asdict(),
        }


def summarize(of: Table, clips: Sequence[ClipQuestions], content: Content) -> list[Line]:
    """One line per run, in the order of the table; `content` must have every answer."""
    questions = [(clip, each) for clip in clips for each in clip.questions]
    kinds = [each.question.kind for _, each in questions]
    given = {run.key: [content.answers[content.runs[run.key], each.number] for _, each in questions] for run in of.runs}
    answers = Answers(
        of.runs,
        lengths=np.array([clip.length for clip, _ in questions]),
        exact={key: np.array([each.exact for each in own], np.float64) for key, own in given.items()},
        tokens={key: np.array([each.tokens for each in own], np.float64) for key, own in given.items()},
    )
    identities = [(clip.cell, clip.draw) for clip, _ in questions]
    overall = Bootstrap(identities)
    by_length = {}
    for length in np.unique(answers.lengths).tolist():
        chosen = answers.lengths == length
        by_length[length] = (chosen, Bootstrap([identities[place] for place in np.flatnonzero(chosen)]))
    unpruned = float(answers.exact[of.runs[0].key].mean())
    lines = []
    for run in of.runs:
        own, exact, tokens = given[run.key], answers.exact[run.key], answers.tokens[run.key]
        differences = {}
        for comparison in of.comparisons:
            reference = comparison.reference(run, answers)
            differences[comparison.name] = None if reference is None else exact - reference
        score = overall.mean(exact)
        lines.append(
            Line(
                run=run,
                questions=len(own),
                clips=len(clips),
                tokens=float(tokens.mean()),
                kinds={
                    kind: _mean([answer.exact for answer, other in zip(own, kinds, strict=True) if other == kind])
                    for kind in clips[0].benchmark.kinds
                    if kind in kinds
                },
                exact=score,
                chosen=overall.mean([answer.chosen for answer in own]),
                share=score.value / unpruned if unpruned else 0.0,
                against=_estimates(differences, overall),
                lengths={
                    length: _length_figures(exact[chosen], tokens[chosen], _part(differences, chosen), bootstrap)
                    for length, (chosen, bootstrap) in by_length.items()
                },
                coverage=_mean_coverage(own),
            )
        )
    return lines


def builtin_layers(of: Benchmark = OFFICIAL) -> int:
    """Number of layers of the language model of the embedded model that answers a benchmark."""
    config = json.loads((Path(embedded_folder(of.model) or of.model) / "config.json").read_text(encoding="utf-8"))
    return int(config["text_config"]["num_hidden_layers"])


def finished(path: Path) -> tuple[Table, list[Line], Sequence[Mapping[str, Any]]]:
    """The table that a file of results is named after, its lines, and the file's headers.

    The questions are the first of the benchmark, as many as the first run has answered.

    Raises
    ------
    InputError: damage, or a run that has not answered every question.
    """
    content = read(path)
    of = benchmark_of(content.headers)
    name = path.name.partition(".")[0].removesuffix(of.suffix)
    chosen = table(name, of=of).within(builtin_layers(of))
    first = content.runs.get(chosen.runs[0].key, -1)
    clips = load_questions(
        limit=sum(run == first for run, _ in content.answers) or None, lengths=chosen.lengths, benchmark=of
    )
    for run in chosen.runs:
        number = content.runs.get(run.key, -1)
        if any((number, each.number) not in content.answers for clip in clips for each in clip.questions):
            raise InputError(f"{path} lacks answers of {run.label} ({run.group}): run the command again")
    return chosen, summarize(chosen, clips, content), content.headers


def _mean_coverage(answers: Sequence[ScoredAnswer]) -> TokenCoverage | None:
    shares = [answer.coverage for answer in answers if answer.coverage is not None]
    if len(shares) < len(answers):
        return None
    return TokenCoverage(*(_mean(column) for column in zip(*shares, strict=True)))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _part(differences: Mapping[str, Values | None], chosen: NDArray[np.bool_]) -> dict[str, Values | None]:
    return {name: None if values is None else values[chosen] for name, values in differences.items()}


def _length_figures(
    exact: Values, tokens: Values, differences: Mapping[str, Values | None], bootstrap: Bootstrap
) -> LengthFigures:
    """The figures of the questions about clips of one length."""
    return LengthFigures(len(exact), float(tokens.mean()), bootstrap.mean(exact), _estimates(differences, bootstrap))


def _estimates(differences: Mapping[str, Values | None], bootstrap: Bootstrap) -> dict[str, Estimate | None]:
    """Means of differences; None where a question has no reference."""
    return {
        name: None if values is None or np.isnan(values).any() else bootstrap.mean(values)
        for name, values in differences.items()
    }


def _differences_json(against: Differences) -> dict[str, Any]:
    return {f"against_{name}": interval_json(estimate) for name, estimate in against.items()}
