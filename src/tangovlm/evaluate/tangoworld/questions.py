"""The questions of the benchmark: stored in a file for the official seed, drawn for others.

A file has one line per clip. A line names its clip by a *cell* of the design (a length and a pace) and the draw within
the cell, and holds the clip's digest, so that a clip that is generated differently is detected. The questions are
numbered in rounds: a round holds one question of every kind from every cell, and as many consecutive questions as there
are kinds are of all kinds, so that the first N questions are balanced over kinds, lengths and paces.
"""

import hashlib
import json
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np

from tangovlm.errors import InputError
from tangovlm.tiny.synthetic.questions import Question
from tangovlm.tiny.synthetic.render import render
from tangovlm.tiny.synthetic.world import Clip

from .design import NAME, OFFICIAL, Benchmark

_MAX_DRAWS = 1000


@dataclass(frozen=True)
class NumberedQuestion:
    """A question of the benchmark with its number, counted from 0."""

    number: int
    question: Question


@dataclass(frozen=True)
class ClipQuestions:
    """A clip, named by its cell and draw, and the questions about it, at most one of each kind."""

    cell: int
    draw: int
    digest: str
    questions: tuple[NumberedQuestion, ...]
    benchmark: Benchmark = OFFICIAL

    @property
    def length(self) -> int:
        """Moments of the clip, and its number of frames unless a run sets another."""
        return self.benchmark.cells[self.cell][0]

    def clip(self) -> Clip:
        """Generate the clip.

        Raises
        ------
        InputError: the clip differs from the one that the benchmark was made with.
        """
        clip = draw_clip(self.cell, self.draw, self.benchmark)
        if digest(clip) != self.digest:
            raise InputError(
                f"{NAME} {self.benchmark.version} would have other clips here: numpy {np.__version__} draws other "
                "random numbers than the numpy that it was made with, or the generator of clips has changed"
            )
        return clip


def load_questions(
    limit: int | None = None,
    kinds: Collection[str] | None = None,
    lengths: Collection[int] | None = None,
    benchmark: Benchmark = OFFICIAL,
) -> tuple[ClipQuestions, ...]:
    """The first `limit` questions of these kinds and lengths, grouped by clip; None for all of them.

    The official questions are read from the package. Others are drawn, which takes about a minute.
    """
    matching = [
        numbered.number
        for clip in _all_clips(benchmark)
        for numbered in clip.questions
        if (lengths is None or clip.length in lengths) and (kinds is None or numbered.question.kind in kinds)
    ]
    numbers = set(sorted(matching)[:limit])
    chosen = (
        ClipQuestions(
            clip.cell, clip.draw, clip.digest, tuple(q for q in clip.questions if q.number in numbers), benchmark
        )
        for clip in _all_clips(benchmark)
    )
    return tuple(clip for clip in chosen if clip.questions)


@cache
def fingerprint(benchmark: Benchmark = OFFICIAL) -> str:
    """SHA-256 of the file of questions, or of what the file of another seed would contain."""
    data = benchmark.file.read_bytes() if benchmark.official else to_json_lines(_all_clips(benchmark)).encode()
    return hashlib.sha256(data).hexdigest()


def draw_clip(cell: int, draw: int, benchmark: Benchmark = OFFICIAL) -> Clip:
    """The clip with the number `draw` of a cell."""
    return benchmark.world.draw_clip(np.random.default_rng([benchmark.seed, cell, draw]), *benchmark.cells[cell])


def draw_questions(cell: int, benchmark: Benchmark = OFFICIAL, rounds: int | None = None) -> Iterator[ClipQuestions]:
    """Draw clips of a cell until every kind has a question for each round.

    Parameters
    ----------
    rounds: None for those of the benchmark.

    Raises
    ------
    RuntimeError: too few questions of a kind in a thousand clips.
    """
    rounds, kinds = benchmark.rounds if rounds is None else rounds, benchmark.kinds
    taken = dict.fromkeys(kinds, 0)
    for draw in range(_MAX_DRAWS):
        clip = draw_clip(cell, draw, benchmark)
        asked = []
        for question in _ask(cell, draw, clip, benchmark):
            if taken[question.kind] < rounds:
                number = benchmark.number(taken[question.kind], cell, kinds.index(question.kind))
                asked.append(NumberedQuestion(number, question))
                taken[question.kind] += 1
        if asked:
            yield ClipQuestions(cell, draw, digest(clip), tuple(asked), benchmark)
        if min(taken.values()) == rounds:
            return
    raise RuntimeError(f"{_MAX_DRAWS} clips of {benchmark.cells[cell]} have too few questions of some kind: {taken}")


def _ask(cell: int, draw: int, clip: Clip, benchmark: Benchmark) -> list[Question]:
    """A random question about visible things for each kind that the clip has an answer to."""
    _, owners = render(clip, clip.times(benchmark.cells[cell][0]))
    rng = np.random.default_rng([benchmark.seed, cell, draw, 1])
    offered = benchmark.world.questions(clip, rng, [int(number) - 1 for number in np.unique(owners) if number])
    first = {question.kind: question for question in (offered[i] for i in rng.permutation(len(offered)))}
    return [first[kind] for kind in benchmark.kinds if kind in first]


def digest(clip: Clip) -> str:
    """A short hash of a clip's parameters."""
    return hashlib.sha256(json.dumps(asdict(clip)).encode()).hexdigest()[:16]


def to_json_lines(clips: Collection[ClipQuestions]) -> str:
    """The file of these clips and their questions."""
    return "".join(f"{_to_json(clip)}\n" for clip in clips)


def _to_json(clip: ClipQuestions) -> str:
    questions = [[each.number, *asdict(each.question).values()] for each in clip.questions]
    return json.dumps({"cell": clip.cell, "draw": clip.draw, "clip": clip.digest, "asked": questions})


@cache
def _all_clips(benchmark: Benchmark) -> tuple[ClipQuestions, ...]:
    if not benchmark.official:
        return tuple(case for cell in range(len(benchmark.cells)) for case in draw_questions(cell, benchmark))
    lines = benchmark.file.read_text(encoding="utf-8").splitlines()
    return tuple(_from_json(json.loads(line), benchmark) for line in lines)


def _from_json(line: dict[str, Any], benchmark: Benchmark) -> ClipQuestions:
    questions = (
        NumberedQuestion(number, Question(kind, text, answer, tuple(choices), tuple(about)))
        for number, kind, text, answer, choices, about in line["asked"]
    )
    return ClipQuestions(line["cell"], line["draw"], line["clip"], tuple(questions), benchmark)
