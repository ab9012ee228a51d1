"""Clips of the synthetic world: one to four scenes with things and decoys.

Things are still, moving, in groups, signs with text, or flashes that are visible for one moment. Decoys are bright,
colourful and unnamed. Things fill 15 to 25 % of the cells of most frames.
The unit of time is the *moment*: a clip of length 16 has moments 0..16, and one frame per moment shows all of it.
The unit of space is the pixel of a 112 x 112 frame, x to the right and y down.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

SIDE = 112
LENGTH = 16
SECONDS_A_MOMENT = 0.5
LENGTHS = (8, 16, 32, 64)
LARGEST_GROUP = 4
DIRECTIONS = ("left", "right", "up", "down")
_OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}

Point = tuple[float, float]
Pace = Literal["still", "calm", "busy"]
PACES: tuple[Pace, ...] = ("still", "calm", "busy")


@dataclass(frozen=True)
class Thing:
    """One thing, or a group of equal things, visible in the moments [start, end)."""

    role: str
    """"still", "group", "mover", "flash" or "sign"."""
    start: float
    end: float
    points: tuple[Point, ...]
    """Centres at `start`."""
    width: int
    height: int
    velocity: Point = (0.0, 0.0)
    """Pixels per moment in the frame: own motion plus that of the camera."""
    shape: str = ""
    color: str = ""
    pattern: str = ""
    text: str = ""
    direction: str = ""
    """The side that a mover moves to."""

    def at(self, time: float) -> list[Point]:
        """Centres at a moment."""
        elapsed = time - self.start
        return [(x + self.velocity[0] * elapsed, y + self.velocity[1] * elapsed) for x, y in self.points]


@dataclass(frozen=True)
class Decoy:
    """A salient object that no question is about, visible in the moments [start, end)."""

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
    """A part of a clip with one background and one camera motion."""

    start: float
    end: float
    background_seed: int
    pan: Point
    """Pixels per moment by which the camera shifts the image."""
    decoys: tuple[Decoy, ...] = ()

    def reversed(self, length: float) -> "Scene":
        """The same scene in the reversed clip of `length` moments."""
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
    """A video of `length` moments, described by what it shows."""

    length: float
    scenes: tuple[Scene, ...]
    things: tuple[Thing, ...]
    noise_seed: int
    pace: Pace = "calm"

    def times(self, frames: int) -> list[float]:
        """The moments of `frames` frames spread uniformly over the clip, as decoding samples its video file."""
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
