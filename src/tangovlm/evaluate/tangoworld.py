"""The benchmark `tangoworld`: a fixed set of questions about clips that no training has used.

The questions are stored in a file, one line per clip. A line names its clip by a *cell* of the design (a length and a
pace) and the draw within the cell, and holds the clip's digest, so that a clip that is generated differently is
detected. The questions are numbered in rounds: a round holds one question of every kind from every cell, and any nine
consecutive questions are of nine kinds, so that the first N questions are balanced over kinds, lengths and paces.
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
from tangovlm.tiny.synthetic.sampling import sample_clip
from tangovlm.tiny.synthetic.world import LENGTHS, PACES, Clip

NAME, VERSION = "tangoworld", 1
FILE = Path(__file__).parent / f"{NAME}-{VERSION}.jsonl"
CELLS = tuple(product(LENGTHS, PACES))
ROUNDS = 10
ROUND = len(CELLS) * len(KINDS)
QUESTIONS = ROUNDS * ROUND
SEED = 4096
"""Not used by any training."""


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

    @property
    def length(self) -> int:
        """Moments of the clip, and its number of frames unless a run sets another."""
        return CELLS[self.cell][0]

    def clip(self) -> Clip:
        """Generate the clip.

        Raises
        ------
        InputError: the clip differs from the one that the benchmark was made with.
        """
        clip = draw_clip(self.cell, self.draw)
        if digest(clip) != self.digest:
            raise InputError(
                f"{NAME} {VERSION} would have other clips here: numpy {np.__version__} draws other random numbers than "
                "the numpy that it was made with, or the generator of clips has changed"
            )
        return clip


@dataclass(frozen=True, eq=False)
class RenderedClip:
    """The frames of a clip.

    Parameters
    ----------
    pixels: uint8 (T, 3, 112, 112).
    seconds: timestamps, float64 (T,).
    moments: the same timestamps in moments.
    owners: int8 (T, 8, 8), see `tiny.synthetic.render.render`.
    """

    clip: Clip
    pixels: Tensor
    seconds: Tensor
    moments: list[float]
    owners: NDArray[np.int8]


def render_clip(clip: Clip, frames: int) -> RenderedClip:
    """The frames that decoding a video file of the clip would return, without the file."""
    moments = clip.times(frames)
    images, owners = render(clip, moments)
    seconds = torch.tensor(moments, dtype=torch.float64) * SECONDS_A_MOMENT
    return RenderedClip(clip, torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), seconds, moments, owners)


def load_questions(
    limit: int | None = None, kinds: Sequence[str] = KINDS, lengths: Sequence[int] = LENGTHS
) -> tuple[ClipQuestions, ...]:
    """The first `limit` questions of these kinds and lengths, grouped by clip; None for all of them."""
    matching = [
        numbered.number
        for clip in _all_clips()
        for numbered in clip.questions
        if clip.length in lengths and numbered.question.kind in kinds
    ]
    numbers = set(sorted(matching)[:limit])
    chosen = (
        ClipQuestions(clip.cell, clip.draw, clip.digest, tuple(q for q in clip.questions if q.number in numbers))
        for clip in _all_clips()
    )
    return tuple(clip for clip in chosen if clip.questions)


@cache
def fingerprint() -> str:
    """SHA-256 of the file of questions."""
    return hashlib.sha256(FILE.read_bytes()).hexdigest()


def draw_clip(cell: int, draw: int) -> Clip:
    """The clip with the number `draw` of a cell."""
    return sample_clip(np.random.default_rng([SEED, cell, draw]), *CELLS[cell])


def digest(clip: Clip) -> str:
    """A short hash of a clip's parameters."""
    return hashlib.sha256(json.dumps(asdict(clip)).encode()).hexdigest()[:16]


def to_json_line(clip: ClipQuestions) -> str:
    """A clip and its questions as a line of the file."""
    questions = [[each.number, *asdict(each.question).values()] for each in clip.questions]
    return json.dumps({"cell": clip.cell, "draw": clip.draw, "clip": clip.digest, "asked": questions})


@cache
def _all_clips() -> tuple[ClipQuestions, ...]:
    return tuple(_from_json(json.loads(line)) for line in FILE.read_text(encoding="utf-8").splitlines())


def _from_json(line: dict[str, Any]) -> ClipQuestions:
    questions = (
        NumberedQuestion(number, Question(kind, text, answer, tuple(choices), tuple(about)))
        for number, kind, text, answer, choices, about in line["asked"]
    )
    return ClipQuestions(line["cell"], line["draw"], line["clip"], tuple(questions))
