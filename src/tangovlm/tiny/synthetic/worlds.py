"""The versions of the synthetic world. A version never changes: benchmarks and trained models belong to it."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from . import questions, questions_v2, sampling, sampling_v2
from .questions import Question
from .world import LENGTHS, Clip, Pace


@dataclass(frozen=True)
class World:
    """One version of the world.

    Parameters
    ----------
    version: 1 or 2.
    lengths: the lengths of clips in moments.
    draw_clip: draws a clip of a length and a pace, see `sampling.sample_clip`.
    draw_crowd: draws a crowded still image, see `sampling.sample_crowd`.
    kinds: of its questions.
    questions, descriptions: write about a clip, see `questions.questions` and `questions.descriptions`.
    """

    version: int
    lengths: tuple[int, ...]
    draw_clip: Callable[[np.random.Generator, int, Pace | None], Clip]
    draw_crowd: Callable[[np.random.Generator], Clip]
    kinds: tuple[str, ...]
    questions: Callable[[Clip, np.random.Generator, Collection[int] | None], list[Question]]
    descriptions: Callable[[Clip, np.random.Generator, Collection[int]], list[Question]]


_WORLDS = (
    World(
        version=1,
        lengths=LENGTHS,
        draw_clip=sampling.sample_clip,
        draw_crowd=sampling.sample_crowd,
        kinds=questions.KINDS,
        questions=questions.questions,
        descriptions=questions.descriptions,
    ),
    World(
        version=2,
        lengths=sampling_v2.LENGTHS,
        draw_clip=sampling_v2.sample_clip,
        draw_crowd=sampling_v2.sample_crowd,
        kinds=questions_v2.KINDS,
        questions=questions_v2.questions,
        descriptions=questions_v2.descriptions,
    ),
)
FIRST = _WORLDS[0]
VERSIONS = tuple(world.version for world in _WORLDS)


def world(version: int = 1) -> World:
    """The world of a version.

    Raises
    ------
    KeyError: an unknown version.
    """
    return {each.version: each for each in _WORLDS}[version]
