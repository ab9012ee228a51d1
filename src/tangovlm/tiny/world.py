"""The synthetic world: a clip is one to four scenes of things that stay, move, come in groups, carry text or flash by.

Time is counted in *moments*: a clip of length 16 has moments 0..16, and one frame a moment shows everything in it.
Space is counted in pixels of a 112 x 112 frame, x to the right and y down.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from .glyphs import COLORS, PATTERNS, SHAPES, SIGN_WORDS, sign_size

SIDE = 112
LENGTH = 16
SIZES = range(15, 22)
DIRECTIONS = ("left", "right", "up", "down")
_STEP = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
_OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}

Point = tuple[float, float]


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
class Scene:
    start: float
    end: float
    background_seed: int
    pan: Point
    """Pixels a moment by which the camera shifts the picture."""


@dataclass(frozen=True)
class Clip:
    length: float
    scenes: tuple[Scene, ...]
    things: tuple[Thing, ...]
    noise_seed: int

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
        scenes = tuple(
            Scene(self.length - s.end, self.length - s.start, s.background_seed, (-s.pan[0], -s.pan[1]))
            for s in reversed(self.scenes)
        )
        return Clip(self.length, scenes, things, self.noise_seed)


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
        for _ in range(tries):
            x, y = self.rng.uniform(low[0], high[0]), self.rng.uniform(low[1], high[1])
            # where it would stand at the scene's start, so that things that come at different moments compare
            home = (x - self.pan[0] * (start - self.start), y - self.pan[1] * (start - self.start))
            if all(
                abs(home[0] - a) > (width + w) / 2 + 1 or abs(home[1] - b) > (height + h) / 2 + 1
                for a, b, w, h in self._taken
            ):
                self._taken.append((*home, width, height))
                return x, y
        return None


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
        speed = min(rng.uniform(4.5, 9.0), (SIDE - size) / span)
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


def sample_clip(rng: np.random.Generator, length: int = LENGTH) -> Clip:
    """Draw a clip of `length` moments."""
    edges = _cuts(rng, length)
    cast = _Cast(rng)
    group_scene = int(rng.integers(len(edges) - 1))
    sign_scene = int(rng.integers(len(edges) - 1)) if rng.random() < 0.75 else -1
    scenes: list[Scene] = []
    things: list[Thing | None] = []
    for index, (start, end) in enumerate(pairwise(edges)):
        pan = _pan(rng, end - start)
        stage = _Stage(rng, start, end, pan)
        scenes.append(Scene(start, end, int(rng.integers(2**31)), pan))
        if index == sign_scene:
            things.append(cast.sign(stage))
        if index == group_scene:
            things.append(cast.shape("group", stage, start, end, count=int(rng.integers(1, 6))))
        if end - start >= 3 and rng.random() < 0.6:
            things.append(cast.mover(stage))
        for _ in range(int(rng.integers(0, 3) if len(edges) > 2 else rng.integers(1, 4))):
            late = end - start >= 4 and rng.random() < 0.4
            begin = int(rng.integers(start + 1, end - 1)) if late else start
            things.append(cast.shape("still", stage, begin, end))
        flashed = any(thing is not None and thing.role == "flash" for thing in things)
        if not flashed and rng.random() < 0.45:
            moment = int(rng.integers(start, end))
            things.append(cast.shape("flash", stage, moment, moment + 1))
    return Clip(length, tuple(scenes), tuple(t for t in things if t is not None), int(rng.integers(2**31)))


def sample_crowd(rng: np.random.Generator) -> Clip:
    """Draw a still of about ten things and three signs: many labelled cells a frame, to train the vision tower on."""
    stage, cast = _Stage(rng, 0, 1, (0.0, 0.0)), _Cast(rng)
    things = [cast.sign(stage) for _ in range(int(rng.integers(2, 5)))]
    sizes = rng.choice([1, 2, 3, 4, 5], p=[0.4, 0.2, 0.15, 0.13, 0.12], size=int(rng.integers(4, 8)))
    things += [cast.shape("group", stage, 0, 1, count=int(n)) for n in sizes]
    scene = Scene(0, 1, int(rng.integers(2**31)), (0.0, 0.0))
    return Clip(1, (scene,), tuple(t for t in things if t is not None), int(rng.integers(2**31)))


def _cuts(rng: np.random.Generator, length: int) -> Sequence[int]:
    """Borders of one to four scenes of at least two moments."""
    scenes = int(rng.choice([1, 2, 3, 4], p=[0.2, 0.25, 0.25, 0.3]))
    inner = np.sort(rng.choice(np.arange(1, length // 2), min(scenes, length // 2) - 1, replace=False)) * 2
    return [0, *(int(cut) for cut in inner), length]


def _pan(rng: np.random.Generator, span: float) -> Point:
    """A still camera in six scenes of ten, else one that shifts by at most 20 pixels during the scene."""
    if rng.random() < 0.6:
        return 0.0, 0.0
    speed, angle = min(rng.uniform(0.5, 1.5), 20 / span), rng.uniform(0, 2 * np.pi)
    return float(speed * np.cos(angle)), float(speed * np.sin(angle))
