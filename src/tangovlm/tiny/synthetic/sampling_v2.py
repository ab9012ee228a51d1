"""Random clips of world 2: up to 256 moments, smaller things of more shapes, and a thing that changes its look.

A thing that changes is described as two things of the role "turn", which have the same shape and place: one until the
change and one from then on. Both must be visible to see the change.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from .glyphs import COLORS, MORE_SHAPES, PATTERNS, SHAPES
from .sampling import TEMPI, Cast, Stage, draw_decoys, draw_pan
from .sampling import sample_crowd as sample_crowd_of
from .world import LARGEST_GROUP, PACES, Clip, Pace, Scene, Thing

LENGTHS = (16, 32, 64, 128, 256)
ALL_SHAPES = (*SHAPES, *MORE_SHAPES)
_SIZES = range(12, 19)
_MORE_SCENES = {128: (0, 1), 256: (1, 2)}
"""By length: the fewest and most scenes that a clip has in addition to those of its pace."""
_TURNS = 0.85
"""Fraction of the clips with a thing that changes."""
_FLASHES = 0.9


def sample_clip(rng: np.random.Generator, length: int = 64, pace: Pace | None = None) -> Clip:
    """Draw a clip of `length` moments. If `pace` is None, it is drawn too."""
    if pace is None:
        pace = PACES[int(rng.integers(len(PACES)))]
    tempo = TEMPI[pace]
    fewest, most = _MORE_SCENES.get(length, (0, 0))
    count = int(rng.choice(len(tempo.scenes), p=tempo.scenes)) + 1 + int(rng.integers(fewest, most + 1))
    edges = _boundaries(rng, length, count)
    cast = Cast(rng, ALL_SHAPES, _SIZES)
    sign_scene = int(rng.integers(count)) if rng.random() < 0.75 else -1
    turn_scene = _long_scene(rng, edges) if rng.random() < _TURNS else -1
    scenes: list[Scene] = []
    stages: list[Stage] = []
    things: list[Thing | None] = []
    for index, (start, end) in enumerate(pairwise(edges)):
        pan = draw_pan(rng, end - start) if rng.random() < tempo.pans else (0.0, 0.0)
        stages.append(Stage(rng, start, end, pan))
        decoys = draw_decoys(rng, start, end, pan, tempo.restless)
        scenes.append(Scene(start, end, int(rng.integers(2**31)), pan, decoys))
        if index == sign_scene:
            things.append(cast.sign(stages[-1]))
        things.append(cast.shape("group", stages[-1], start, end, count=int(rng.integers(1, LARGEST_GROUP + 1))))
        if index == turn_scene:
            things += _turn(rng, cast, stages[-1])
    for _ in range(2 if length >= 128 else 1):
        if rng.random() < _FLASHES:
            things.append(_flash(rng, cast, stages[int(rng.integers(count))], max(1, length // 64)))
    # In random order, so that no part of a clip is systematically empty when shapes run out.
    for index in rng.permutation(count):
        things += _extras(rng, cast, stages[index], tempo.movers, few=count > 3)
    shown = tuple(thing for thing in things if thing is not None)
    return Clip(length, tuple(scenes), shown, int(rng.integers(2**31)), pace)


def sample_crowd(rng: np.random.Generator) -> Clip:
    """Draw a crowded still image, see `sampling.sample_crowd`."""
    return sample_crowd_of(rng, ALL_SHAPES, _SIZES)


def _boundaries(rng: np.random.Generator, length: int, scenes: int) -> list[int]:
    """Boundaries of scenes of at least three moments and a sixteenth of the clip each."""
    least = max(3, length // 16)
    inner = np.sort(rng.integers(0, length - scenes * least + 1, scenes - 1))
    return [0, *(int(cut) + least * number for number, cut in enumerate(inner, start=1)), length]


def _long_scene(rng: np.random.Generator, edges: list[int]) -> int:
    """A scene of at least four moments, or -1."""
    long = [index for index, (start, end) in enumerate(pairwise(edges)) if end - start >= 4]
    return int(rng.choice(long)) if long else -1


def _turn(rng: np.random.Generator, cast: Cast, stage: Stage) -> Iterator[Thing]:
    """A thing that changes its color or its pattern once, as two things."""
    thing = cast.shape("turn", stage, stage.start, stage.end)
    if thing is None:
        return
    moment = float(rng.integers(int(stage.start) + 1, int(stage.end) - 1))
    after = replace(thing, start=moment, points=tuple(thing.at(moment)))
    yield replace(thing, end=moment)
    if rng.random() < 0.6:
        yield replace(after, color=_other(rng, thing.color, COLORS))
    else:
        yield replace(after, pattern=_other(rng, thing.pattern, PATTERNS))


def _other(rng: np.random.Generator, value: str, values: Sequence[str]) -> str:
    return str(rng.choice([other for other in values if other != value]))


def _flash(rng: np.random.Generator, cast: Cast, stage: Stage, moments: int) -> Thing | None:
    moments = min(moments, int(stage.end - stage.start))
    start = int(rng.integers(int(stage.start), int(stage.end) - moments + 1))
    return cast.shape("flash", stage, start, start + moments)


def _extras(rng: np.random.Generator, cast: Cast, stage: Stage, movers: float, few: bool) -> Iterator[Thing | None]:
    """The other things of a scene: possibly a mover, and single things, half of which appear late."""
    start, end = int(stage.start), int(stage.end)
    if rng.random() < movers:
        yield cast.mover(stage)
    for _ in range(int(rng.integers(1, 3) if few else rng.integers(2, 5))):
        late = end - start >= 4 and rng.random() < 0.5
        yield cast.shape("still", stage, int(rng.integers(start + 1, end - 1)) if late else start, end)
