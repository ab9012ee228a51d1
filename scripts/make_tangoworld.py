"""Write the questions of the benchmark tangoworld into the package: `python scripts/make_tangoworld.py [FILE]`.

FILE is by default the file that `tangovlm eval` reads. Run this only for a new version of the benchmark:
results of one version are compared with each other, so its questions never change.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tangovlm.evaluate.tangoworld import (
    CELLS,
    FILE,
    ROUND,
    ROUNDS,
    SEED,
    ClipQuestions,
    NumberedQuestion,
    digest,
    draw_clip,
    to_json_line,
)
from tangovlm.tiny.synthetic.questions import KINDS, Question, questions
from tangovlm.tiny.synthetic.render import render
from tangovlm.tiny.synthetic.world import Clip

_MAX_DRAWS = 1000


def make_cases(cell: int, rounds: int = ROUNDS) -> Iterator[ClipQuestions]:
    """Draw clips of a cell until every kind has a question for each round.

    Raises
    ------
    RuntimeError: too few questions of a kind in a thousand clips.
    """
    taken = dict.fromkeys(KINDS, 0)
    for draw in range(_MAX_DRAWS):
        clip = draw_clip(cell, draw)
        asked = []
        for question in _ask(cell, draw, clip, [kind for kind in KINDS if taken[kind] < rounds]):
            asked.append(NumberedQuestion(_number(taken[question.kind], cell, KINDS.index(question.kind)), question))
            taken[question.kind] += 1
        if asked:
            yield ClipQuestions(cell, draw, digest(clip), tuple(asked))
        if min(taken.values()) == rounds:
            return
    raise RuntimeError(f"{_MAX_DRAWS} clips of {CELLS[cell]} have too few questions of some kind: {taken}")


def _ask(cell: int, draw: int, clip: Clip, kinds: Sequence[str]) -> list[Question]:
    """A random question about visible things for each of these kinds that the clip has an answer to."""
    _, owners = render(clip, clip.times(CELLS[cell][0]))
    rng = np.random.default_rng([SEED, cell, draw, 1])
    offered = questions(clip, rng, [int(number) - 1 for number in np.unique(owners) if number])
    first = {question.kind: question for question in (offered[i] for i in rng.permutation(len(offered)))}
    return [first[kind] for kind in KINDS if kind in first and kind in kinds]


def _number(round_: int, cell: int, kind: int) -> int:
    """The number of a question: nine consecutive ones of a round have nine kinds and nine cells."""
    return round_ * ROUND + (cell - kind) % len(CELLS) * len(KINDS) + kind


def main(arguments: Sequence[str]) -> int:
    """Write the file and print the number of its clips."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", default=FILE, metavar="FILE", help="file to write")
    target = parser.parse_args(arguments).file
    lines = [to_json_line(case) for cell in range(len(CELLS)) for case in make_cases(cell)]
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{target}: {len(lines)} clips")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
