"""The synthetic world: a clip is one to four scenes of things that stay, move, come in groups, carry text or flash by.

Between them lie decoys, bright and colourful and without a name. Things fill 15 to 25 % of the cells of most frames.
Time is counted in *moments*: a clip of length 16 has moments 0..16, and one frame a moment shows everything in it.
Space is counted in pixels of a 112 x 112 frame, x to the right and y down.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np

from .glyphs import COLORS, PATTERNS, SHAPES, SIGN_WORDS, sign_size

SIDE = 112
LENGTH = 16
LENGTHS = (8, 16, 32, 64)
LARGEST_GROUP = 4
SIZES = range(15, 22)
DIRECTIONS = ("left", "right", "up", "down")
_STEP = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
_OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}

Point = tuple[float, float]
Pace = Literal["still", "calm", "busy"]
PACES: tuple[Pace, ...] = ("still", "calm", "busy")
_GAP = 3
"""Pixels between things at least, so that equal things can be counted."""


@dataclass(frozen=True)
class Thing:
    """One thing, or a group of equal things, that is visible for the moments [start, end)."""

    role: str
    """"still", "group", "mover", "flash" or "sign"."""
    start: float
    end: float
    points: tuple[Point, ...]
    """Centres at `start`."""
    width: int
    height: int
    velocity: Point = (0.0, 0.0)
    """Pixels a moment on the screen: own motion plus the camera's."""
    shape: str = ""
    color: str = ""
    pattern: str = ""
    text: str = ""
    direction: str = ""
    """Of a mover: the side it moves to."""

    def at(self, time: float) -> list[Point]:
        """Centres at a moment."""
        elapsed = time - self.start
        return [(x + self.velocity[0] * elapsed, y + self.velocity[1] * elapsed) for x, y in self.points]


@dataclass(frozen=True)
class Decoy:
    """Something that draws the eye and means nothing, visible for the moments [start, end)."""

    kind: str
    """"confetti", specks of all colours, or "ribbon", a thin bright stroke."""
    start: float
    end: float
    point: Point
    """Centre at `start`."""
    velocity: Point
    size: int
    seed: int

    def at(self, time: float) -> Point:
        """Centre at a moment."""
        elapsed = time - self.start
        return self.point[0] + self.velocity[0] * elapsed, self.point[1] + self.velocity[1] * elapsed


@dataclass(frozen=True)
class Scene:
    start: float
    end: float
    background_seed: int
    pan: Point
    """Pixels a moment by which the camera shifts the picture."""
    decoys: tuple[Decoy, ...] = ()

    def reversed(self, length: float) -> "Scene":
        """The same scene in a clip of `length` moments that is played backwards."""
        decoys = tuple(
            replace(
                decoy,
                start=length - decoy.end,
                end=length - decoy.start,
                point=decoy.at(decoy.end),
                velocity=(-decoy.velocity[0], -decoy.velocity[1]),
            )
            for decoy in self.decoys
        )
        return Scene(length - self.end, length - self.start, self.background_seed, (-self.pan[0], -self.pan[1]), decoys)


@dataclass(frozen=True)
class Clip:
    length: float
    scenes: tuple[Scene, ...]
    things: tuple[Thing, ...]
    noise_seed: int
    pace: Pace = "calm"

    def times(self, frames: int) -> list[float]:
        """The moments of `frames` frames spread over the clip, as decoding spreads them over its video file."""
        return [float(t) for t in np.linspace(0, self.length - 0.25, frames)]

    def reversed(self) -> "Clip":
        """The same clip played backwards."""
        things = tuple(
            replace(
                thing,
                start=self.length - thing.end,
                end=self.length - thing.start,
                points=tuple(thing.at(thing.end)),
                velocity=(-thing.velocity[0], -thing.velocity[1]),
                direction=_OPPOSITE.get(thing.direction, ""),
            )
            for thing in self.things
        )
        scenes = tuple(scene.reversed(self.length) for scene in reversed(self.scenes))
        return replace(self, scenes=scenes, things=things)


class _Stage:
    """Free room of one scene: finds places whose whole path stays in the frame and clear of what stands there."""

    def __init__(self, rng: np.random.Generator, start: float, end: float, pan: Point) -> None:
        self.rng, self.start, self.end, self.pan = rng, start, end, pan
        self._taken: list[tuple[float, float, int, int]] = []

    def place(self, width: int, height: int, start: float, end: float, tries: int = 30) -> Point | None:
        """A centre at `start`, or None if there is no room."""
        drift = (self.pan[0] * (end - start), self.pan[1] * (end - start))
        low = (width / 2 + max(0.0, -drift[0]), height / 2 + max(0.0, -drift[1]))
        high = (SIDE - width / 2 - max(0.0, drift[0]), SIDE - height / 2 - max(0.0, drift[1]))
        points = self.rng.uniform(low, high, (tries, 2))
        # Where they would stand at the scene's start, so that things that come at different moments compare.
        homes = points - np.array(self.pan) * (start - self.start)
        taken = np.array(self._taken).reshape(-1, 4)
        room = (taken[:, 2:] + (width, height)) / 2 + _GAP
        free = (np.abs(homes[:, None] - taken[:, :2]) > room).any(-1).all(-1)
        if not free.any():
            return None
        first = int(free.argmax())
        self._taken.append((*homes[first], width, height))
        return float(points[first, 0]), float(points[first, 1])


class _Cast:
    """Draws things; a shape is used at most once in a clip, so that it names its thing."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self._shapes = [str(s) for s in rng.permutation(SHAPES)]

    def sign(self, stage: _Stage) -> Thing | None:
        rng = self.rng
        text = f"{rng.integers(10, 100)}" if rng.random() < 0.6 else str(rng.choice(SIGN_WORDS))
        width, height = sign_size(text)
        point = stage.place(width, height, stage.start, stage.end)
        if point is None:
            return None
        tint = "light" if rng.random() < 0.5 else "dark"
        return Thing("sign", stage.start, stage.end, (point,), width, height, stage.pan, text=text, color=tint)

    def shape(self, role: str, stage: _Stage, start: float, end: float, count: int = 1) -> Thing | None:
        if not self._shapes:
            return None
        size = int(self.rng.choice(SIZES))
        places = (stage.place(size, size, start, end) for _ in range(count))
        points = tuple(p for p in places if p is not None)
        if not points:
            return None
        return Thing(role, start, end, points, size, size, stage.pan, **self._looks())

    def mover(self, stage: _Stage) -> Thing | None:
        """A thing that crosses the frame along one axis during its scene; the camera's shift is part of its path."""
        if not self._shapes:
            return None
        rng, size, span = self.rng, int(self.rng.choice(SIZES)), stage.end - stage.start
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
class _Tempo:
    """How much happens in a clip of a pace."""

    scenes: tuple[float, ...]
    """Chances of one, two, three and four scenes."""
    pans: float
    """Share of the scenes whose camera shifts."""
    movers: float
    """Share of the scenes with a mover."""
    restless: float
    """Share of the decoys that come and go or drift."""


_TEMPI: dict[Pace, _Tempo] = {
    "still": _Tempo(scenes=(0.5, 0.4, 0.1, 0.0), pans=0.0, movers=0.4, restless=0.1),
    "calm": _Tempo(scenes=(0.1, 0.3, 0.4, 0.2), pans=0.3, movers=0.5, restless=0.3),
    "busy": _Tempo(scenes=(0.0, 0.1, 0.4, 0.5), pans=0.6, movers=0.8, restless=0.7),
}


def _extras(rng: np.random.Generator, cast: _Cast, stage: _Stage, tempo: _Tempo, few: bool) -> Iterator[Thing | None]:
    """What a scene shows beside its group: perhaps a mover, and single things, some of which come late."""
    start, end = int(stage.start), int(stage.end)
    if end - start >= 3 and rng.random() < tempo.movers:
        yield cast.mover(stage)
    for _ in range(int(rng.integers(1, 3) if few else rng.integers(2, 5))):
        late = end - start >= 4 and rng.random() < 0.4
        yield cast.shape("still", stage, int(rng.integers(start + 1, end - 1)) if late else start, end)


def sample_clip(rng: np.random.Generator, length: int = LENGTH, pace: Pace | None = None) -> Clip:
    """Draw a clip of `length` moments; None = of any pace."""
    if pace is None:
        pace = PACES[int(rng.integers(len(PACES)))]
    tempo = _TEMPI[pace]
    edges = _cuts(rng, length, tempo.scenes)
    cast = _Cast(rng)
    sign_scene = int(rng.integers(len(edges) - 1)) if rng.random() < 0.75 else -1
    scenes: list[Scene] = []
    stages: list[_Stage] = []
    things: list[Thing | None] = []
    for index, (start, end) in enumerate(pairwise(edges)):
        pan = _pan(rng, end - start) if rng.random() < tempo.pans else (0.0, 0.0)
        stages.append(_Stage(rng, start, end, pan))
        scenes.append(Scene(start, end, int(rng.integers(2**31)), pan, _decoys(rng, start, end, pan, tempo.restless)))
        if index == sign_scene:
            things.append(cast.sign(stages[-1]))
        things.append(cast.shape("group", stages[-1], start, end, count=int(rng.integers(1, LARGEST_GROUP + 1))))
    if rng.random() < 0.8:
        stage = stages[int(rng.integers(len(stages)))]
        moment = int(rng.integers(int(stage.start), int(stage.end)))
        things.append(cast.shape("flash", stage, moment, moment + 1))
    # In any order, so that no part of a clip is the empty one when shapes run out.
    for index in rng.permutation(len(stages)):
        things += _extras(rng, cast, stages[index], tempo, few=len(stages) > 2)
    shown = tuple(thing for thing in things if thing is not None)
    return Clip(length, tuple(scenes), shown, int(rng.integers(2**31)), pace)


def sample_crowd(rng: np.random.Generator) -> Clip:
    """Draw a still of about ten things and three signs: many labelled cells a frame, to train the vision tower on."""
    stage, cast = _Stage(rng, 0, 1, (0.0, 0.0)), _Cast(rng)
    things = [cast.sign(stage) for _ in range(int(rng.integers(2, 5)))]
    sizes = rng.choice([1, 2, 3, 4, 5], p=[0.4, 0.2, 0.15, 0.13, 0.12], size=int(rng.integers(4, 8)))
    things += [cast.shape("group", stage, 0, 1, count=int(n)) for n in sizes]
    scene = Scene(0, 1, int(rng.integers(2**31)), (0.0, 0.0), _decoys(rng, 0, 1, (0.0, 0.0), 0.0))
    return Clip(1, (scene,), tuple(t for t in things if t is not None), int(rng.integers(2**31)))


def _decoys(rng: np.random.Generator, start: float, end: float, pan: Point, restless: float) -> tuple[Decoy, ...]:
    """Two to six decoys of a scene; a restless one is there for a part of it and drifts."""
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


def _cuts(rng: np.random.Generator, length: int, chances: Sequence[float]) -> Sequence[int]:
    """Borders of one to four scenes of at least two moments."""
    scenes = int(rng.choice(len(chances), p=chances)) + 1
    inner = np.sort(rng.choice(np.arange(1, length // 2), min(scenes, length // 2) - 1, replace=False)) * 2
    return [0, *(int(cut) for cut in inner), length]


def _pan(rng: np.random.Generator, span: float) -> Point:
    """A camera that shifts by at most 20 pixels during the scene."""
    speed, angle = min(rng.uniform(0.5, 1.5), 20 / span), rng.uniform(0, 2 * np.pi)
    return float(speed * np.cos(angle)), float(speed * np.sin(angle))
