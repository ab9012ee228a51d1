"""Random clips of the synthetic world: placement of things, their looks, and the pace of a clip."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .glyphs import COLORS, PATTERNS, SHAPES, SIGN_WORDS, sign_size
from .world import DIRECTIONS, LARGEST_GROUP, LENGTH, PACES, SIDE, Clip, Decoy, Pace, Point, Scene, Thing

SIZES = range(15, 22)
_STEP = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
_GAP = 3
"""Minimum number of pixels between things, so that equal things can be counted."""


class Stage:
    """The free space of one scene: places things so that their paths stay in the frame and do not overlap."""

    def __init__(self, rng: np.random.Generator, start: float, end: float, pan: Point) -> None:
        self.rng, self.start, self.end, self.pan = rng, start, end, pan
        self._taken: list[tuple[float, float, int, int]] = []

    def place(self, width: int, height: int, start: float, end: float, tries: int = 30) -> Point | None:
        """A centre at `start`, or None if there is no room."""
        drift = (self.pan[0] * (end - start), self.pan[1] * (end - start))
        low = (width / 2 + max(0.0, -drift[0]), height / 2 + max(0.0, -drift[1]))
        high = (SIDE - width / 2 - max(0.0, drift[0]), SIDE - height / 2 - max(0.0, drift[1]))
        points = self.rng.uniform(low, high, (tries, 2))
        # Positions at the start of the scene, so that things that appear at different moments can be compared.
        homes = points - np.array(self.pan) * (start - self.start)
        taken = np.array(self._taken).reshape(-1, 4)
        room = (taken[:, 2:] + (width, height)) / 2 + _GAP
        free = (np.abs(homes[:, None] - taken[:, :2]) > room).any(-1).all(-1)
        if not free.any():
            return None
        first = int(free.argmax())
        self._taken.append((*homes[first], width, height))
        return float(points[first, 0]), float(points[first, 1])


class Cast:
    """Draws things. A shape is used at most once in a clip, so that it identifies its thing.

    Parameters
    ----------
    sizes: of the things in pixels.
    """

    def __init__(self, rng: np.random.Generator, shapes: Sequence[str] = SHAPES, sizes: Sequence[int] = SIZES) -> None:
        self.rng, self.sizes = rng, sizes
        self._shapes = [str(s) for s in rng.permutation(shapes)]

    def sign(self, stage: Stage) -> Thing | None:
        rng = self.rng
        text = f"{rng.integers(10, 100)}" if rng.random() < 0.6 else str(rng.choice(SIGN_WORDS))
        width, height = sign_size(text)
        point = stage.place(width, height, stage.start, stage.end)
        if point is None:
            return None
        tint = "light" if rng.random() < 0.5 else "dark"
        return Thing("sign", stage.start, stage.end, (point,), width, height, stage.pan, text=text, color=tint)

    def shape(self, role: str, stage: Stage, start: float, end: float, count: int = 1) -> Thing | None:
        if not self._shapes:
            return None
        size = int(self.rng.choice(self.sizes))
        places = (stage.place(size, size, start, end) for _ in range(count))
        points = tuple(p for p in places if p is not None)
        if not points:
            return None
        return Thing(role, start, end, points, size, size, stage.pan, **self._looks())

    def mover(self, stage: Stage) -> Thing | None:
        """A thing that crosses the frame along one axis during its scene; its path includes the camera motion."""
        if not self._shapes:
            return None
        rng, size, span = self.rng, int(self.rng.choice(self.sizes)), stage.end - stage.start
        direction = str(rng.choice(DIRECTIONS))
        speed = rng.uniform(45, SIDE - size) / span
        velocity = (_STEP[direction][0] * speed, _STEP[direction][1] * speed)
        low = [size / 2 + max(0.0, -v * span) for v in velocity]
        high = [SIDE - size / 2 - max(0.0, v * span) for v in velocity]
        point = (float(rng.uniform(low[0], high[0])), float(rng.uniform(low[1], high[1])))
        looks = self._looks()
        return Thing("mover", stage.start, stage.end, (point,), size, size, velocity, direction=direction, **looks)

    def _looks(self) -> dict[str, str]:
        rng = self.rng
        return {
            "shape": self._shapes.pop(),
            "color": str(rng.choice(COLORS)),
            "pattern": str(rng.choice(PATTERNS)),
        }


@dataclass(frozen=True)
class Tempo:
    """How much happens in a clip of one pace."""

    scenes: tuple[float, ...]
    """Probabilities of one, two, three and four scenes."""
    pans: float
    """Fraction of the scenes with camera motion."""
    movers: float
    """Fraction of the scenes with a mover."""
    restless: float
    """Fraction of the decoys that appear for a part of the scene and drift."""


TEMPI: dict[Pace, Tempo] = {
    "still": Tempo(scenes=(0.5, 0.4, 0.1, 0.0), pans=0.0, movers=0.4, restless=0.1),
    "calm": Tempo(scenes=(0.1, 0.3, 0.4, 0.2), pans=0.3, movers=0.5, restless=0.3),
    "busy": Tempo(scenes=(0.0, 0.1, 0.4, 0.5), pans=0.6, movers=0.8, restless=0.7),
}


def _extras(rng: np.random.Generator, cast: Cast, stage: Stage, tempo: Tempo, few: bool) -> Iterator[Thing | None]:
    """The other things of a scene: possibly a mover, and single things, some of which appear late."""
    start, end = int(stage.start), int(stage.end)
    if end - start >= 3 and rng.random() < tempo.movers:
        yield cast.mover(stage)
    for _ in range(int(rng.integers(1, 3) if few else rng.integers(2, 5))):
        late = end - start >= 4 and rng.random() < 0.4
        yield cast.shape("still", stage, int(rng.integers(start + 1, end - 1)) if late else start, end)


def sample_clip(rng: np.random.Generator, length: int = LENGTH, pace: Pace | None = None) -> Clip:
    """Draw a clip of `length` moments. If `pace` is None, it is drawn too."""
    if pace is None:
        pace = PACES[int(rng.integers(len(PACES)))]
    tempo = TEMPI[pace]
    edges = _boundaries(rng, length, tempo.scenes)
    cast = Cast(rng)
    sign_scene = int(rng.integers(len(edges) - 1)) if rng.random() < 0.75 else -1
    scenes: list[Scene] = []
    stages: list[Stage] = []
    things: list[Thing | None] = []
    for index, (start, end) in enumerate(pairwise(edges)):
        pan = draw_pan(rng, end - start) if rng.random() < tempo.pans else (0.0, 0.0)
        stages.append(Stage(rng, start, end, pan))
        scenes.append(
            Scene(start, end, int(rng.integers(2**31)), pan, draw_decoys(rng, start, end, pan, tempo.restless))
        )
        if index == sign_scene:
            things.append(cast.sign(stages[-1]))
        things.append(cast.shape("group", stages[-1], start, end, count=int(rng.integers(1, LARGEST_GROUP + 1))))
    if rng.random() < 0.8:
        stage = stages[int(rng.integers(len(stages)))]
        moment = int(rng.integers(int(stage.start), int(stage.end)))
        things.append(cast.shape("flash", stage, moment, moment + 1))
    # In random order, so that no part of a clip is systematically empty when shapes run out.
    for index in rng.permutation(len(stages)):
        things += _extras(rng, cast, stages[index], tempo, few=len(stages) > 2)
    shown = tuple(thing for thing in things if thing is not None)
    return Clip(length, tuple(scenes), shown, int(rng.integers(2**31)), pace)


def sample_crowd(rng: np.random.Generator, shapes: Sequence[str] = SHAPES, sizes: Sequence[int] = SIZES) -> Clip:
    """Draw a still image with about ten things and three signs: many labelled cells, for training the vision tower."""
    stage, cast = Stage(rng, 0, 1, (0.0, 0.0)), Cast(rng, shapes, sizes)
    things = [cast.sign(stage) for _ in range(int(rng.integers(2, 5)))]
    counts = rng.choice([1, 2, 3, 4, 5], p=[0.4, 0.2, 0.15, 0.13, 0.12], size=int(rng.integers(4, 8)))
    things += [cast.shape("group", stage, 0, 1, count=int(n)) for n in counts]
    scene = Scene(0, 1, int(rng.integers(2**31)), (0.0, 0.0), draw_decoys(rng, 0, 1, (0.0, 0.0), 0.0))
    return Clip(1, (scene,), tuple(t for t in things if t is not None), int(rng.integers(2**31)))


def draw_decoys(rng: np.random.Generator, start: float, end: float, pan: Point, restless: float) -> tuple[Decoy, ...]:
    """Two to six decoys of a scene. A restless one is visible for a part of it and drifts."""
    out = []
    for _ in range(int(rng.integers(2, 7))):
        kind, size = str(rng.choice(["confetti", "ribbon"])), int(rng.integers(14, 27))
        point = (float(rng.uniform(0, SIDE)), float(rng.uniform(0, SIDE)))
        first, last, velocity = start, end, pan
        if rng.random() < restless:
            first = float(rng.integers(int(start), int(end)))
            last = min(end, first + float(rng.integers(1, 5)))
            velocity = (pan[0] + float(rng.normal(0, 3)), pan[1] + float(rng.normal(0, 3)))
        out.append(Decoy(kind, first, last, point, velocity, size, int(rng.integers(2**31))))
    return tuple(out)


def _boundaries(rng: np.random.Generator, length: int, chances: Sequence[float]) -> Sequence[int]:
    """Boundaries of one to four scenes of at least two moments each."""
    scenes = int(rng.choice(len(chances), p=chances)) + 1
    inner = np.sort(rng.choice(np.arange(1, length // 2), min(scenes, length // 2) - 1, replace=False)) * 2
    return [0, *(int(cut) for cut in inner), length]


def draw_pan(rng: np.random.Generator, span: float) -> Point:
    """A camera motion of at most 20 pixels during the scene."""
    speed, angle = min(rng.uniform(0.5, 1.5), 20 / span), rng.uniform(0, 2 * np.pi)
    return float(speed * np.cos(angle)), float(speed * np.sin(angle))
