"""Questions about a clip in English, each with its answer in words and four choices."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from .glyphs import COLORS, COUNTS, PATTERNS, SHAPES, SIGN_WORDS
from .render import CELL, GRID
from .world import DIRECTIONS, LARGEST_GROUP, SIDE, Clip, Thing

KINDS = ("color", "shape", "pattern", "count", "read", "motion", "position", "brief", "order")
POSITIONS = ("top left", "top right", "bottom left", "bottom right")
_MIDDLE = 6
"""Distance in pixels from a middle line within which a thing has no side."""


@dataclass(frozen=True)
class Question:
    """A question with its true answer."""

    kind: str
    text: str
    answer: str
    choices: tuple[str, ...]
    """Four possible answers including the true one; empty for descriptions, which only training uses."""
    about: tuple[int, ...]
    """Indices of the things that must be visible to answer."""


def questions(clip: Clip, rng: np.random.Generator, visible: Collection[int] | None = None) -> list[Question]:
    """Every question that the clip answers, with choices drawn from `rng`.

    Parameters
    ----------
    visible: indices of the visible things; no question is about the others, which are hidden by a mover. None for all.
    """
    asked = [i for i in range(len(clip.things)) if visible is None or i in visible]
    asker = Asker(clip, rng, asked)
    return [q for i in asked for q in asker.about(i)] + asker.order()


class Asker:
    """Asks about a clip.

    Parameters
    ----------
    asked: indices of the things that questions may be about.
    shapes: of the world, from which wrong choices are drawn.
    """

    def __init__(
        self, clip: Clip, rng: np.random.Generator, asked: Sequence[int], shapes: Sequence[str] = SHAPES
    ) -> None:
        self.clip, self.rng, self.shapes = clip, rng, shapes
        self.shaped = [i for i in asked if clip.things[i].role != "sign"]
        self.appearing = self.shaped
        """The things that questions about the order compare."""
        self.colors = Counter(thing.color for thing in clip.things if thing.role != "sign")

    def about(self, index: int) -> list[Question]:
        """Questions about one thing."""
        thing = self.clip.things[index]
        if thing.role == "sign":
            what, pool = ("number", self._numbers(thing.text)) if thing.text.isdigit() else ("word", list(SIGN_WORDS))
            return [self.ask("read", f"What {what} is on the sign?", thing.text, pool, index)]
        name, shown = name_of(thing), [self.clip.things[i] for i in self.shaped]
        be, suffix = ("are", "s") if len(thing.points) > 1 else ("is", "")
        tail = " that flashes by" if thing.role == "flash" else ""
        brief = "brief" if thing.role == "flash" else ""
        colors = self.likely([t.color for t in shown], COLORS)
        out = [self.ask(brief or "color", f"What color {be} the {name}{tail}?", thing.color, colors, index)]
        if self.colors[thing.color] == 1:
            shapes = self.likely([t.shape for t in shown], self.shapes)
            text = f"What shape {be} the {thing.color} thing{suffix}{tail}?"
            out.append(self.ask(brief or "shape", text, thing.shape, shapes, index))
        if not brief:
            do = "do" if suffix else "does"
            text = f"What pattern {do} the {name} have?"
            out.append(self.ask("pattern", text, thing.pattern, list(PATTERNS), index))
        if thing.role == "group":
            count = COUNTS[len(thing.points) - 1]
            numbers = list(COUNTS[:LARGEST_GROUP])
            out.append(self.ask("count", f"How many {plural(thing.shape)} are there?", count, numbers, index))
        if thing.role == "mover":
            text = f"Which way does the {name} move?"
            out.append(self.ask("motion", text, thing.direction, list(DIRECTIONS), index))
        elif len(thing.points) == 1 and not brief and (place := position(thing)):
            out.append(self.ask("position", f"Where is the {name}?", place, list(POSITIONS), index))
        return out

    def order(self) -> list[Question]:
        """Up to two questions about which of three or four things appears first."""
        out = []
        for picked in of_different_moments(self.clip, self.rng, self.appearing, fewest=3, most=4):
            shapes = [self.clip.things[i].shape for i in picked]
            named = [f"the {shape}" for shape in self.rng.permutation(shapes)]
            text = f"Which comes first, {', '.join(named[:-1])} or {named[-1]}?"
            pool = shapes + [s for s in self.shapes if s not in shapes]
            out.append(self.ask("order", text, shapes[0], pool, *picked))
        return out

    def ask(self, kind: str, text: str, answer: str, pool: Sequence[str], *about: int) -> Question:
        """A question whose choices are the answer and the first three others of the pool, shuffled if unordered."""
        others = [p for p in dict.fromkeys(pool) if p != answer]
        if kind not in ("color", "shape", "brief", "order", "read"):
            others = [str(o) for o in self.rng.permutation(others)]
        choices = [str(c) for c in self.rng.permutation([answer, *others[:3]])]
        return Question(kind, text, answer, tuple(choices), about)

    def likely(self, shown: Sequence[str], pool: Sequence[str]) -> list[str]:
        """The pool in random order, values in the clip first, so that wrong choices are visible elsewhere in it."""
        return [str(x) for x in (*self.rng.permutation(shown), *self.rng.permutation(pool))]

    def _numbers(self, text: str) -> list[str]:
        """Numbers that share a digit with the true one, then random ones."""
        tens, units = text[0], text[1]
        near = [f"{tens}{self.rng.integers(10)}", f"{self.rng.integers(1, 10)}{units}"]
        if units != "0":
            near.append(units + tens)
        return near + [str(n) for n in self.rng.integers(10, 100, 8)]


def descriptions(clip: Clip, rng: np.random.Generator, visible: Collection[int]) -> list[Question]:
    """Descriptions of things and their paths, which give more training signal per token than questions."""
    out = []
    for index in visible:
        thing = clip.things[index]
        if thing.role == "sign":
            continue
        name, parts = name_of(thing), [thing.color, thing.pattern]
        if len(thing.points) > 1:
            parts.insert(0, COUNTS[len(thing.points) - 1])
        parts.append(f"moves {thing.direction}" if thing.role == "mover" else position(thing))
        out.append(Question("describe", f"Describe the {name}.", " ".join(p for p in parts if p), (), (index,)))
        if len(thing.points) == 1 and thing.role != "flash":
            out.append(Question("trace", f"Trace the {name}.", _path(thing, rng), (), (index,)))
    for picked in of_different_moments(clip, rng, [i for i in visible if clip.things[i].shape]):
        named = [f"the {clip.things[i].shape}" for i in rng.permutation(picked)]
        text = f"List {', '.join(named[:-1])} and {named[-1]} in order."
        out.append(Question("list", text, " ".join(clip.things[i].shape for i in picked), (), tuple(picked)))
    return out


def of_different_moments(
    clip: Clip, rng: np.random.Generator, things: Collection[int], fewest: int = 2, most: int = 6
) -> list[list[int]]:
    """Two samples of things that appear at different moments, earliest first; none if there are too few moments."""
    starts: dict[float, list[int]] = {}
    for index in things:
        starts.setdefault(clip.things[index].start, []).append(index)
    if len(starts) < fewest:
        return []
    moments = [sorted(rng.choice(sorted(starts), min(most, len(starts)), replace=False)) for _ in range(2)]
    return [[int(rng.choice(starts[moment])) for moment in chosen] for chosen in moments]


def position(thing: Thing) -> str:
    """The quarter of the frame that a thing stays in, or "" if it does not stay in one."""
    places = {_quarter(x, y) for x, y in (*thing.at(thing.start), *thing.at(thing.end))}
    return places.pop() if len(places) == 1 else ""


def plural(shape: str) -> str:
    return shape + ("es" if shape.endswith("s") else "s")


def name_of(thing: Thing) -> str:
    """The shape, in the plural for a group of several things."""
    return plural(thing.shape) if len(thing.points) > 1 else thing.shape


def _quarter(x: float, y: float) -> str:
    middle = SIDE / 2
    if abs(x - middle) <= _MIDDLE or abs(y - middle) <= _MIDDLE:
        return ""
    return f"{'top' if y < middle else 'bottom'} {'left' if x < middle else 'right'}"


def _path(thing: Thing, rng: np.random.Generator) -> str:
    """The first and last cell of a thing, and its direction, in either order."""

    def cell(time: float) -> str:
        x, y = thing.at(time)[0]
        return f"row {min(int(y // CELL), GRID - 1) + 1} column {min(int(x // CELL), GRID - 1) + 1}"

    way = thing.direction or "still"
    route = f"{cell(thing.start)} to {cell(thing.end - 1)}"
    return f"{route} {way}" if rng.random() < 0.6 else f"{way} {route}"
