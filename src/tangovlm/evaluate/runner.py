"""Runs of the benchmark `tangoworld`: every run answers every question, clip by clip; finished answers are skipped."""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from tangovlm.pipeline.load import VideoLLM
from tangovlm.session.memo import Memo
from tangovlm.tiny.synthetic.questions import Question
from tangovlm.tokens import Selection
from tangovlm.tower.changed import Changed

from .batched import BatchedAnswerer, Reply
from .clip_encoder import ClipEncoder, pruned_video, select
from .coverage import GroundTruth, TokenCoverage
from .results import ResultsFile, ScoredAnswer
from .runs import Run
from .stock_generate import answer_question
from .tangoworld import ClipQuestions, RenderedClip, render_clip

Progress = Callable[[int], None]


@dataclass
class _PendingRun:
    """A run and the questions about one clip that it has not answered yet."""

    number: int
    run: Run
    questions: dict[int, Question]


def check_runs(llm: VideoLLM, runs: Iterable[Run]) -> None:
    """Check that every method fits the model; see `ClipEncoder.check`."""
    ClipEncoder(llm).check(runs)


def answer_clips(
    llm: VideoLLM,
    runs: Mapping[int, Run],
    clips: Iterable[ClipQuestions],
    done: Container[tuple[int, int]],
    progress: Progress,
) -> Iterator[list[ScoredAnswer]]:
    """Yield the missing answers, one list per clip.

    Parameters
    ----------
    runs: by their number in the answers.
    done: pairs (run, question) that are already answered.
    progress: called with the number of further answers, including those in `done`.

    Raises
    ------
    TangoError: see the methods and `attach`.
    """
    encoder, answerer = ClipEncoder(llm), BatchedAnswerer(llm)
    for clip in clips:
        pending = []
        for number, run in runs.items():
            missing = {each.number: each.question for each in clip.questions if (number, each.number) not in done}
            progress(len(clip.questions) - len(missing))
            if missing:
                pending.append(_PendingRun(number, run, missing))
        if pending:
            answers = _answer_clip(encoder, answerer, clip, pending, progress)
            yield sorted(answers, key=lambda answer: (answer.run, answer.number))


def execute(
    llm: VideoLLM, runs: Iterable[Run], clips: Iterable[ClipQuestions], results: ResultsFile, progress: Progress
) -> None:
    """Append the missing answers to a file of results.

    Raises
    ------
    TangoError: see `answer_clips`; InputError if the file cannot be written.
    """
    numbered = {results.number(run): run for run in runs}
    for answers in answer_clips(llm, numbered, clips, results.content.answers, progress):
        results.add(answers)


def accuracy(llm: VideoLLM, run: Run, clips: Sequence[ClipQuestions]) -> dict[str, float]:
    """Exact match by kind of question, without a file of results."""
    kinds = {each.number: each.question.kind for clip in clips for each in clip.questions}
    order = clips[0].benchmark.kinds
    exact: dict[str, list[int]] = {kind: [] for kind in order if kind in kinds.values()}
    for answers in answer_clips(llm, {0: run}, clips, (), lambda _: None):
        for answer in answers:
            exact[kinds[answer.number]].append(answer.exact)
    return {kind: sum(values) / len(values) for kind, values in exact.items()}


def _answer_clip(
    encoder: ClipEncoder,
    answerer: BatchedAnswerer,
    clip: ClipQuestions,
    pending: Sequence[_PendingRun],
    progress: Progress,
) -> Iterator[ScoredAnswer]:
    """All missing answers about one clip."""
    generated = clip.clip()
    by_frames: dict[tuple[int, Changed | None], list[_PendingRun]] = {}
    for each in pending:
        by_frames.setdefault((each.run.frames or clip.length, each.run.encode), []).append(each)
    for (frames, changed), group in by_frames.items():
        rendered = render_clip(generated, frames)
        pixels = encoder.pixels(rendered.pixels)
        batchable = [each for each in group if answerer.supports(each.run)]
        for answer in _answer_batched(encoder, answerer, rendered, pixels, changed, batchable) if batchable else ():
            yield answer
            progress(1)
        for each in (each for each in group if not answerer.supports(each.run)):
            family, memo = encoder.family(each.run.saliency), Memo()
            for number, question in each.questions.items():
                reply, kept = answer_question(encoder.llm, family, each.run, pixels, rendered.seconds, question, memo)
                yield _scored(each, number, reply, kept, None)
                progress(1)


def _answer_batched(
    encoder: ClipEncoder,
    answerer: BatchedAnswerer,
    rendered: RenderedClip,
    pixels: Tensor,
    changed: Changed | None,
    pending: Sequence[_PendingRun],
) -> Iterator[ScoredAnswer]:
    """Encode once, select for every run, and batch the runs that keep equally many tokens."""
    needs: dict[str, frozenset[str]] = {}
    for run in (each.run for each in pending):
        needs[run.saliency] = needs.get(run.saliency, frozenset()) | encoder.readable(run)
    encoded = encoder.encode(pixels, rendered.seconds, needs, changed)
    by_shape: dict[tuple[int, tuple[int, ...]], list[tuple[_PendingRun, Selection]]] = {}
    for each in pending:
        selection = select(each.run, encoded)
        by_shape.setdefault((selection.indices.numel(), tuple(each.questions)), []).append((each, selection))
    truth: GroundTruth | None = None
    for (kept, numbers), group in by_shape.items():
        questions = [group[0][0].questions[number] for number in numbers]
        before, after = answerer.prompts(pixels, [question.text for question in questions])
        videos = [pruned_video(encoded, selection, each.run.positions) for each, selection in group]
        for (each, selection), replies in zip(group, answerer.replies(videos, before, after, questions), strict=True):
            truth = truth or GroundTruth(rendered, *selection.sources.shape[1:])
            for number, question, reply in zip(numbers, questions, replies, strict=True):
                yield _scored(each, number, reply, kept, truth.coverage(selection, question.about))


def _scored(pending: _PendingRun, number: int, reply: Reply, kept: int, coverage: TokenCoverage | None) -> ScoredAnswer:
    question = pending.questions[number]
    return ScoredAnswer(
        run=pending.number,
        number=number,
        exact=int(reply.answer == question.answer),
        chosen=int(reply.best(question) == question.answer),
        tokens=kept,
        answer=reply.answer,
        coverage=None if coverage is None else list(coverage),
    )
