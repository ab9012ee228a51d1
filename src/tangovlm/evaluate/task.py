"""The questions of the benchmark `tangoworld`: always the same ones, about clips that no training has seen.

They lie in a file, one line a clip. A line names its clip by a *cell* of the design (a length and a pace) and the draw
within it, and holds the clip's digest, so that a clip that would come out otherwise here is noticed. The questions are
numbered in rounds: a round holds one question of every kind from every cell, and any nine neighbours are of nine
kinds, so that the first so many questions are even over kinds, lengths and paces.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tangovlm.errors import InputError
from tangovlm.tiny.clip import SECONDS_A_MOMENT
from tangovlm.tiny.synthetic.questions import KINDS, Question
from tangovlm.tiny.synthetic.render import render
from tangovlm.tiny.synthetic.world import LENGTHS, PACES, Clip, sample_clip

NAME, VERSION = "tangoworld", 1
FILE = Path(__file__).parent / f"{NAME}-{VERSION}.jsonl"
CELLS = tuple(product(LENGTHS, PACES))
ROUNDS = 10
ROUND = len(CELLS) * len(KINDS)
QUESTIONS = ROUNDS * ROUND
SEED = 4096
"""Of no training."""


@dataclass(frozen=True)
class Asked:
    """A question of the benchmark with its number, from 0."""

    number: int
    question: Question


@dataclass(frozen=True)
class Case:
    """A clip, named by its cell and draw, and the questions about it: at most one of a kind."""

    cell: int
    draw: int
    digest: str
    asked: tuple[Asked, ...]

    @property
    def length(self) -> int:
        """Moments of the clip, and frames of it unless a run wants others."""
        return CELLS[self.cell][0]

    def clip(self) -> Clip:
        """Draw the clip.

        Raises
        ------
        InputError: it comes out otherwise than when the benchmark was made.
        """
        clip = draw_clip(self.cell, self.draw)
        if digest(clip) != self.digest:
            raise InputError(
                f"{NAME} {VERSION} would be other clips here: numpy {np.__version__} draws other numbers than the "
                "numpy that made it, or the world has changed"
            )
        return clip


@dataclass(frozen=True, eq=False)
class View:
    """A clip as it is seen.

    pixels: uint8 (T, 3, 112, 112). seconds: float64 (T,). times: the same in moments. owners: int8 (T, 8, 8), as
    `tiny.synthetic.render.render` gives them.
    """

    clip: Clip
    pixels: Tensor
    seconds: Tensor
    times: list[float]
    owners: NDArray[np.int8]


def view(clip: Clip, frames: int) -> View:
    """The frames that decoding the clip's file would give, without the file."""
    times = clip.times(frames)
    images, owners = render(clip, times)
    seconds = torch.tensor(times, dtype=torch.float64) * SECONDS_A_MOMENT
    return View(clip, torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), seconds, times, owners)


def cases(limit: int | None = None, kinds: Sequence[str] = KINDS, lengths: Sequence[int] = LENGTHS) -> tuple[Case, ...]:
    """The first `limit` questions of these kinds and lengths, None = all of them, gathered by clip."""
    fitting = [
        asked.number
        for case in _all_cases()
        for asked in case.asked
        if case.length in lengths and asked.question.kind in kinds
    ]
    wanted = set(sorted(fitting)[:limit])
    chosen = (
        Case(case.cell, case.draw, case.digest, tuple(asked for asked in case.asked if asked.number in wanted))
        for case in _all_cases()
    )
    return tuple(case for case in chosen if case.asked)


@cache
def fingerprint() -> str:
    """SHA-256 of the file of questions."""
    return hashlib.sha256(FILE.read_bytes()).hexdigest()


def draw_clip(cell: int, draw: int) -> Clip:
    """Clip `draw` of a cell."""
    return sample_clip(np.random.default_rng([SEED, cell, draw]), *CELLS[cell])


def digest(clip: Clip) -> str:
    """Tells one clip from another."""
    return hashlib.sha256(json.dumps(asdict(clip)).encode()).hexdigest()[:16]


def to_line(case: Case) -> str:
    """A case as its line of the file."""
    asked = [[a.number, *asdict(a.question).values()] for a in case.asked]
    return json.dumps({"cell": case.cell, "draw": case.draw, "clip": case.digest, "asked": asked})


@cache
def _all_cases() -> tuple[Case, ...]:
    return tuple(_from_line(json.loads(line)) for line in FILE.read_text(encoding="utf-8").splitlines())


def _from_line(line: dict[str, Any]) -> Case:
    asked = (
        Asked(number, Question(kind, text, answer, tuple(choices), tuple(about)))
        for number, kind, text, answer, choices, about in line["asked"]
    )
    return Case(line["cell"], line["draw"], line["clip"], tuple(asked))
