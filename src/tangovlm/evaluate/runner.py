"""Runs every run over every question, clip by clip, and writes down what is not in the file yet."""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from tangovlm.methods.common.slots import keep_all
from tangovlm.pipeline.load import VideoLLM
from tangovlm.session.memo import Memo
from tangovlm.tiny.synthetic.questions import KINDS, Question
from tangovlm.tokens import Selection

from . import attached
from .look import Ground, Look
from .results import ResultsFile, Row
from .runs import Run
from .scoring import Encoded, Reply, Scorer, visual
from .task import Case, View, view

Progress = Callable[[int], None]


@dataclass
class _Job:
    """A run and the questions of a clip that it has not answered."""

    number: int
    run: Run
    questions: dict[int, Question]


def check(llm: VideoLLM, runs: Iterable[Run]) -> None:
    """See that every method fits the model; see `Scorer.check`."""
    Scorer(llm).check(runs)


def answers(
    llm: VideoLLM, runs: Mapping[int, Run], cases: Iterable[Case], done: Container[tuple[int, int]], progress: Progress
) -> Iterator[list[Row]]:
    """All answers that are missing, a clip at a time.

    Parameters
    ----------
    runs: by their number in the rows.
    done: (run, question) that need no answer any more.
    progress: told how many more answers there are, done ones too.

    Raises
    ------
    TangoError: see the methods and `attach`.
    """
    scorer = Scorer(llm)
    for case in cases:
        jobs = []
        for number, run in runs.items():
            missing = {a.number: a.question for a in case.asked if (number, a.number) not in done}
            progress(len(case.asked) - len(missing))
            if missing:
                jobs.append(_Job(number, run, missing))
        if jobs:
            yield sorted(_clip(scorer, case, jobs, progress), key=lambda row: (row.run, row.number))


def execute(
    llm: VideoLLM, runs: Iterable[Run], cases: Iterable[Case], results: ResultsFile, progress: Progress
) -> None:
    """Write down all answers that are missing in a file.

    Raises
    ------
    TangoError: see `answers`; InputError where results cannot be written.
    """
    numbered = {results.number(run): run for run in runs}
    for rows in answers(llm, numbered, cases, results.content.rows, progress):
        results.add(rows)


def accuracy(llm: VideoLLM, run: Run, cases: Sequence[Case]) -> dict[str, float]:
    """Exact match by kind of question, without a file."""
    kinds = {asked.number: asked.question.kind for case in cases for asked in case.asked}
    right: dict[str, list[int]] = {kind: [] for kind in KINDS if kind in kinds.values()}
    for rows in answers(llm, {0: run}, cases, (), lambda _: None):
        for row in rows:
            right[kinds[row.number]].append(row.exact)
    return {kind: sum(values) / len(values) for kind, values in right.items()}


def _clip(scorer: Scorer, case: Case, jobs: Sequence[_Job], progress: Progress) -> Iterator[Row]:
    """The answers to all that is missing about one clip."""
    clip = case.clip()
    by_frames: dict[int, list[_Job]] = {}
    for job in jobs:
        by_frames.setdefault(job.run.frames or case.length, []).append(job)
    for frames, group in by_frames.items():
        seen = view(clip, frames)
        pixels = scorer.pixels(seen.pixels)
        shared = [job for job in group if scorer.shares(job.run)]
        for row in _before_llm(scorer, seen, pixels, shared) if shared else ():
            yield row
            progress(1)
        for job in (job for job in group if not scorer.shares(job.run)):
            family, memo = scorer.family(job.run.saliency), Memo()
            for number, question in job.questions.items():
                said, kept = attached.reply(scorer.llm, family, job.run, pixels, seen.seconds, question, memo)
                yield _row(job, number, said, kept, None)
                progress(1)


def _before_llm(scorer: Scorer, seen: View, pixels: Tensor, jobs: Sequence[_Job]) -> Iterator[Row]:
    """Encode once, select for every run, and read what is equally long together."""
    needs: dict[str, frozenset[str]] = {}
    for run in (job.run for job in jobs):
        needs[run.saliency] = needs.get(run.saliency, frozenset()) | run.needs
    encoded = scorer.encode(pixels, seen.seconds, needs)
    alike: dict[tuple[int, tuple[int, ...]], list[tuple[_Job, Selection]]] = {}
    for job in jobs:
        selection = select(job.run, encoded)
        alike.setdefault((selection.indices.numel(), tuple(job.questions)), []).append((job, selection))
    ground: Ground | None = None
    for (kept, numbers), group in alike.items():
        questions = [group[0][0].questions[number] for number in numbers]
        before, behind = scorer.prompts(pixels, [question.text for question in questions])
        videos = [visual(encoded, selection, job.run.positions) for job, selection in group]
        for (job, selection), said in zip(group, scorer.replies(videos, before, behind, questions), strict=True):
            ground = ground or Ground(seen, *selection.sources.shape[1:])
            for number, question, one in zip(numbers, questions, said, strict=True):
                yield _row(job, number, one, kept, ground.look(selection, question.about))


def select(run: Run, encoded: Encoded) -> Selection:
    """What a run keeps, shown the signals it asks for and no others, as within `attach`."""
    tokens = encoded.tokens[run.saliency]
    if run.unpruned:
        return keep_all(tokens, (tokens.frames,))
    shown = replace(
        tokens,
        saliency=tokens.saliency if "saliency" in run.needs else None,
        frame_features=tokens.frame_features if "frame_features" in run.needs else None,
        keys=tokens.keys if "keys" in run.needs else None,
    )
    return run.pruner(shown)


def _row(job: _Job, number: int, said: Reply, kept: int, look: Look | None) -> Row:
    question = job.questions[number]
    return Row(
        run=job.number,
        number=number,
        exact=int(said.answer == question.answer),
        chosen=int(said.best(question) == question.answer),
        tokens=kept,
        answer=said.answer,
        look=None if look is None else list(look),
    )
