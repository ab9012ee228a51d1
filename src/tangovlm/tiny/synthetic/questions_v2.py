"""Questions about clips of world 2: those of world 1, two that need two moments, and one about when a thing appears."""

from collections.abc import Collection, Sequence

import numpy as np

from .glyphs import COLORS, PATTERNS
from .questions import KINDS as FIRST_KINDS
from .questions import Asker, Question, name_of, of_different_moments
from .questions import descriptions as first_descriptions
from .sampling_v2 import ALL_SHAPES
from .world import SECONDS_A_MOMENT, Clip, Thing

KINDS = (*FIRST_KINDS, "change", "next", "when")
PARTS = 4
"""Answers to "when" are rounded down to this fraction of the clip."""


def questions(clip: Clip, rng: np.random.Generator, visible: Collection[int] | None = None) -> list[Question]:
    """Every question that the clip answers; see `questions.questions`."""
    asked = [i for i in range(len(clip.things)) if visible is None or i in visible]
    asker = _Asker(clip, rng, asked)
    return [q for i in asked for q in asker.about(i)] + asker.order() + asker.next() + asker.change() + asker.when()


class _Asker(Asker):
    def __init__(self, clip: Clip, rng: np.random.Generator, asked: Sequence[int]) -> None:
        super().__init__(clip, rng, asked, ALL_SHAPES)
        self.turns = [pair for pair in _turns(clip) if set(pair) <= set(self.shaped)]
        self.appearing = _appearing(clip, self.shaped)

    def about(self, index: int) -> list[Question]:
        """Questions about one thing; none about a thing that changes, whose color is not one answer."""
        return [] if self.clip.things[index].role == "turn" else super().about(index)

    def next(self) -> list[Question]:
        """Up to two questions about which of several things is the first that appears after another one."""
        out = []
        for picked in of_different_moments(self.clip, self.rng, self.appearing, fewest=3, most=4):
            shapes = [self.clip.things[i].shape for i in picked]
            after = int(self.rng.integers(len(shapes) - 1))
            others = [str(s) for s in self.rng.permutation(shapes[:after] + shapes[after + 1 :])]
            named = [f"the {shape}" for shape in others]
            text = f"Which comes right after the {shapes[after]}, {', '.join(named[:-1])} or {named[-1]}?"
            pool = [*others, *self.likely([self.clip.things[i].shape for i in self.shaped], ALL_SHAPES)]
            choices = [shape for shape in pool if shape != shapes[after]]
            out.append(self.ask("next", text, shapes[after + 1], choices, *picked))
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
            if thing.start > 0:
                answers = [_seconds(part * seconds / PARTS) for part in range(PARTS)]
                verb = "do" if len(thing.points) > 1 else "does"
                text = f"The clip lasts {seconds:g} seconds. When {verb} the {name_of(thing)} appear?"
                out.append(self.ask("when", text, answers[part_of(clip=self.clip, time=thing.start)], answers, index))
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
