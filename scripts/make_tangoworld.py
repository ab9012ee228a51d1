"""How the file of questions was made: `python scripts/make_tangoworld.py`.

Only a new version of the benchmark needs it: results of one version are compared, so its questions never change.
"""

import sys
from collections.abc import Iterator, Sequence

import numpy as np

from tangovlm.evaluate.task import CELLS, FILE, ROUND, ROUNDS, SEED, Asked, Case, digest, draw_clip, to_line
from tangovlm.tiny.synthetic.questions import KINDS, Question, questions
from tangovlm.tiny.synthetic.render import render
from tangovlm.tiny.synthetic.world import Clip

_MAX_DRAWS = 1000


def make_cases(cell: int, rounds: int = ROUNDS) -> Iterator[Case]:
    """Clips of a cell, drawn until every kind has a question for each round."""
    taken = dict.fromkeys(KINDS, 0)
    for draw in range(_MAX_DRAWS):
        clip = draw_clip(cell, draw)
        asked = []
        for question in _ask(cell, draw, clip, [kind for kind in KINDS if taken[kind] < rounds]):
            asked.append(Asked(_number(taken[question.kind], cell, KINDS.index(question.kind)), question))
            taken[question.kind] += 1
        if asked:
            yield Case(cell, draw, digest(clip), tuple(asked))
        if min(taken.values()) == rounds:
            return
    raise RuntimeError(f"{_MAX_DRAWS} clips of {CELLS[cell]} hold too few questions of some kind: {taken}")


def _ask(cell: int, draw: int, clip: Clip, kinds: Sequence[str]) -> list[Question]:
    """A question of each of these kinds that the clip answers, chosen at random, about things that can be seen."""
    _, owners = render(clip, clip.times(CELLS[cell][0]))
    rng = np.random.default_rng([SEED, cell, draw, 1])
    offered = questions(clip, rng, [int(number) - 1 for number in np.unique(owners) if number])
    first = {question.kind: question for question in (offered[i] for i in rng.permutation(len(offered)))}
    return [first[kind] for kind in KINDS if kind in first and kind in kinds]


def _number(round_: int, cell: int, kind: int) -> int:
    """Within a round, groups of nine: of nine kinds and of nine cells."""
    return round_ * ROUND + (cell - kind) % len(CELLS) * len(KINDS) + kind


def main() -> int:
    lines = [to_line(case) for cell in range(len(CELLS)) for case in make_cases(cell)]
    FILE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{FILE}: {len(lines)} clips")
    return 0


if __name__ == "__main__":
    sys.exit(main())
