"""Questions about clips of world 2: those of world 1, two that need two moments, and one about when a thing appears."""

from collections.abc import Collection, Sequence
from itertools import permutations

import numpy as np

from .glyphs import COLORS, PATTERNS
from .questions import KINDS as FIRST_KINDS
from .questions import Asker, Question, name_of
from .questions import descriptions as first_descriptions
from .sampling_v2 import ALL_SHAPES
from .world import SECONDS_A_MOMENT, Clip, Thing

KINDS = (*FIRST_KINDS, "change", "both", "when")
PARTS = 4
"""Answers to "when" are rounded down to this fraction of the clip."""
_MARGIN = 1 / 32
"""Fraction of the clip: "when" is not asked about things that appear closer to the start of a part or its end."""
_LONG_MOVE = 6
"""Fewest moments of a mover that a question about its direction is asked about."""


def questions(clip: Clip, rng: np.random.Generator, visible: Collection[int] | None = None) -> list[Question]:
    """Every question that the clip answers; see `questions.questions`."""
    asked = [i for i in range(len(clip.things)) if visible is None or i in visible]
    asker = _Asker(clip, rng, asked)
    return [q for i in asked for q in asker.about(i)] + asker.order() + asker.change() + asker.both() + asker.when()


class _Asker(Asker):
    def __init__(self, clip: Clip, rng: np.random.Generator, asked: Sequence[int]) -> None:
        super().__init__(clip, rng, asked, ALL_SHAPES)
        self.turns = [pair for pair in _turns(clip) if set(pair) <= set(self.shaped)]
        self.appearing = _appearing(clip, self.shaped)

    def about(self, index: int) -> list[Question]:
        """Questions about one thing; none about a thing that changes, whose color is not one answer."""
        thing = self.clip.things[index]
        if thing.role == "turn":
            return []
        short = thing.end - thing.start < _LONG_MOVE
        return [q for q in super().about(index) if not (short and q.kind == "motion")]

    def both(self) -> list[Question]:
        """Up to two questions about the colors of two things of different colors that are never visible together."""
        things = {i: self.clip.things[i] for i in self.shaped if self.clip.things[i].role != "turn"}
        pairs = [
            (i, j)
            for (i, a), (j, b) in permutations(things.items(), 2)
            if a.color != b.color and (a.end <= b.start or b.end <= a.start)
        ]
        out = []
        for number in self.rng.permutation(len(pairs))[:2]:
            i, j = pairs[number]
            (one, two), other = (
                (things[i].color, things[j].color),
                self.likely([t.color for t in things.values()], COLORS),
            )
            third, fourth = [color for color in dict.fromkeys(other) if color not in (one, two)][:2]
            wrong = [f"{two} and {one}", f"{one} and {third}", f"{fourth} and {two}"]
            text = f"What colors do the {name_of(things[i])} and the {name_of(things[j])} have?"
            out.append(self.ask("both", text, f"{one} and {two}", wrong, i, j))
        return out

    def change(self) -> list[Question]:
        """What a thing changes from and to."""
        out = []
        for first, then in self.turns:
            shape = self.clip.things[first].shape
            name, before, after, pool = _changed(self.clip.things[first], self.clip.things[then])
            extra = [str(p) for p in self.rng.permutation([p for p in pool if p not in (before, after)])]
            wrong = [f"{after} to {before}", f"{before} to {extra[0]}", f"{extra[1]} to {after}"]
            text = f"What {name} does the {shape} change from and to?"
            out.append(self.ask("change", text, f"{before} to {after}", wrong, first, then))
        return out

    def when(self) -> list[Question]:
        """When things appear that are not there from the start."""
        out = []
        seconds = self.clip.length * SECONDS_A_MOMENT
        for index in self.appearing:
            thing = self.clip.things[index]
            place = thing.start / self.clip.length * PARTS % 1 / PARTS
            if _MARGIN <= place <= 1 / PARTS - _MARGIN:
                answers = [_seconds(part * seconds / PARTS) for part in range(PARTS)]
                verb = "do" if len(thing.points) > 1 else "does"
                text = f"The clip lasts {seconds:g} seconds. When {verb} the {name_of(thing)} appear?"
                out.append(self.ask("when", text, answers[part_of(self.clip, thing.start)], answers, index))
        return out


def descriptions(clip: Clip, rng: np.random.Generator, visible: Collection[int]) -> list[Question]:
    """Descriptions as in world 1, and of things before and after a change and of times, which only training uses."""
    turning = {index for pair in _turns(clip) for index in pair}
    shown = set(visible)
    out = []
    for first, then in _turns(clip):
        if {first, then} <= shown:
            for index, moment in ((first, "first"), (then, "last")):
                thing = clip.things[index]
                for look, value in (("color", thing.color), ("pattern", thing.pattern)):
                    text = f"What {look} does the {thing.shape} have at {moment}?"
                    out.append(Question("look", text, value, (), (first, then)))
    for index in _appearing(clip, [i for i in visible if clip.things[i].shape]):
        thing = clip.things[index]
        if index not in turning:
            first, last = (part_of(clip, time) + 1 for time in (thing.start, thing.end - 1))
            out.append(Question("span", f"Time the {name_of(thing)}.", f"part {first} to {last}", (), (index,)))
    return out + first_descriptions(clip, rng, [i for i in visible if i not in turning])


def part_of(clip: Clip, time: float) -> int:
    """The part of a clip that a moment is in, from 0 to `PARTS` - 1."""
    return int(time * PARTS // clip.length)


def _turns(clip: Clip) -> list[tuple[int, int]]:
    """The pairs of things that describe a change, the earlier one first."""
    pairs: dict[str, list[int]] = {}
    for index, thing in enumerate(clip.things):
        if thing.role == "turn":
            pairs.setdefault(thing.shape, []).append(index)
    both = (sorted(pair, key=lambda i: clip.things[i].start) for pair in pairs.values())
    return [(first, then) for first, then in both]


def _appearing(clip: Clip, things: Collection[int]) -> list[int]:
    """Those of the things whose start is the moment in which they appear: not the second part of a change."""
    later = {then for _, then in _turns(clip)}
    return [index for index in things if index not in later]


def _seconds(time: float) -> str:
    return f"{time:g} second{'' if time == 1 else 's'}"


def _changed(old: Thing, new: Thing) -> tuple[str, str, str, Sequence[str]]:
    """The name of the attribute that changes, its old value, the new one, and all values."""
    if old.color != new.color:
        return "color", old.color, new.color, COLORS
    return "pattern", old.pattern, new.pattern, PATTERNS
