"""Training batches of the language stage: clips, some of their tokens, and the questions that follow each.

The curriculum lengthens the context from the cells of a few things to whole clips. Tokens of a whole clip are dropped
uniformly at random, so that no pruning method has an advantage.
"""

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

from .cache import EncodedClips
from .model import TOKENS_PER_FRAME
from .recipe import Level
from .synthetic.questions import Question
from .synthetic.questions_v2 import part_of
from .synthetic.world import Clip, Scene, Thing
from .tokenizer import ANSWER, END

_QUESTIONS, _MORE_QUESTIONS, _MANY_TOKENS = 9, 20, 1000
"""Number of questions about a clip, in lessons with many tokens of a clip, and how many tokens are many."""
_OF_A_KIND = 4
"""Maximum number of questions of one kind, where a clip offers one for most of its things."""
_TIMED = ("when", "span")
"""Kinds about times, which only original positions tell."""
_TURNS = 0.5
"""Fraction of the lessons of a few things that include the thing that changes."""
_PATHS_FROM = 0.06
"""Fraction of the steps from which on paths and sequences are included."""

_Part = TypeVar("_Part", Scene, Thing)


@dataclass(frozen=True)
class Lesson:
    """One batch of B clips with K visual tokens and N text tokens.

    Parameters
    ----------
    features: (B, K, 192) float16, zero beyond `lengths`.
    lengths: (B,) number of visual tokens.
    positions: (B, K + 1 + N) position ids of visual tokens, newline and text.
    text: (B, N) token ids.
    block: (B, N) the question that a text token belongs to, -1 for padding.
    targets: (B, N) the next token in the answers, -100 elsewhere.
    """

    features: Tensor
    lengths: Tensor
    positions: Tensor
    text: Tensor
    block: Tensor
    targets: Tensor


class Writer:
    """Encodes questions as token ids: question, answer marker, answer, end."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.answer = int(tokenizer.convert_tokens_to_ids(ANSWER))
        self.end = int(tokenizer.convert_tokens_to_ids(END))
        self._ids: dict[str, list[int]] = {}

    def ids(self, text: str) -> list[int]:
        if text not in self._ids:
            self._ids[text] = self.tokenizer(text).input_ids
        return self._ids[text]

    def block(self, question: str, answer: str) -> tuple[list[int], int]:
        """Token ids, and the index of the first token of the answer."""
        asked = [*self.ids(question), self.answer]
        return [*asked, *self.ids(answer), self.end], len(asked)


def pack(
    features: list[Tensor], positions: list[Tensor], newlines: list[int], blocks: list[list[tuple[list[int], int]]]
) -> Lesson:
    """Pad clips of K_i tokens and their questions to one batch.

    Parameters
    ----------
    features: (K_i, 192) of each clip.
    positions: (K_i,) position ids of each clip.
    newlines: position id of the newline of each clip.
    blocks: the questions of each clip, see `Writer.block`.
    """
    batch, visual = len(features), max(len(f) for f in features)
    words = max(sum(len(ids) for ids, _ in asked) for asked in blocks)
    text, block = torch.zeros(batch, words, dtype=torch.long), torch.full((batch, words), -1)
    targets = torch.full((batch, words), -100)
    all_positions = torch.zeros(batch, visual + 1 + words, dtype=torch.long)
    padded = torch.zeros(batch, visual, features[0].shape[-1], dtype=features[0].dtype)
    for entry, (kept, place, newline, asked) in enumerate(zip(features, positions, newlines, blocks, strict=True)):
        padded[entry, : len(kept)] = kept
        all_positions[entry, : len(kept)] = place
        all_positions[entry, visual] = newline
        at = 0
        for number, (ids, first) in enumerate(asked):
            stop = at + len(ids)
            text[entry, at:stop] = torch.tensor(ids)
            block[entry, at:stop] = number
            targets[entry, at + first - 1 : stop - 1] = torch.tensor(ids[first:])
            all_positions[entry, visual + 1 + at : visual + 1 + stop] = newline + 1 + torch.arange(len(ids))
            at = stop
    return Lesson(padded, torch.tensor([len(f) for f in features]), all_positions, text, block, targets)


class Lessons(Dataset[Lesson]):
    """The lessons of `steps` steps; each depends only on its number and the arguments.

    Parameters
    ----------
    first: step of the first lesson.
    tokens: approximate number of visual and text tokens in a lesson.
    begin: fraction of the curriculum that is skipped.
    """

    def __init__(
        self,
        encoded: EncodedClips,
        writer: Writer,
        steps: int,
        first: int,
        tokens: int,
        seed: int = 21,
        begin: float = 0.0,
    ) -> None:
        self.encoded, self.writer, self.steps, self.first = encoded, writer, steps, first
        self.tokens, self.seed, self.begin = tokens, seed, begin
        self._lengths = np.array([clip.length for clip in encoded.clips])

    def __len__(self) -> int:
        return self.steps - self.first

    def __getitem__(self, index: int) -> Lesson:
        step = self.first + index
        rng = np.random.default_rng([self.seed, step])
        share = self.begin + (1 - self.begin) * step / self.steps
        levels = next(levels for start, levels in reversed(self.encoded.recipe.curriculum) if start <= share)
        level = levels[int(rng.integers(len(levels)))]
        text_tokens = level.text_tokens or self.encoded.recipe.text_tokens
        clips = max(1, self.tokens // (level.tokens + text_tokens))
        draws = [self._clip(rng, level, share >= _PATHS_FROM) for _ in range(clips)]
        return pack(*(list(column) for column in zip(*draws, strict=True)))

    def _clip(
        self, rng: np.random.Generator, level: Level, paths: bool
    ) -> tuple[Tensor, Tensor, int, list[tuple[list[int], int]]]:
        short = self._lengths <= (level.frames or np.inf)
        index = int(rng.choice(np.flatnonzero(short)))
        backwards = rng.random() < 0.5
        clip = self.encoded.clips[index]
        frames = torch.arange(clip.length)
        if rng.random() < self.encoded.recipe.shuffled:
            clip, frames = _shuffled(clip, rng)
        if backwards:
            clip, frames = clip.reversed(), frames.flip(0)
        flat = self.encoded.owners[index][frames].flatten().numpy()
        cells = _choose(rng, flat, level, clip)
        often = self.encoded.recipe.original_positions[level.things is None]
        original = bool(level.kinds) or rng.random() < often
        factor = 1
        if original and level.things is not None and self.encoded.recipe.slowed:
            factor = 2 ** int(rng.integers(int(np.log2(self._lengths.max() // clip.length)) + 1))
            clip = _slowed(clip, factor)
        places = cells // TOKENS_PER_FRAME * factor * TOKENS_PER_FRAME + cells % TOKENS_PER_FRAME
        asked = self._questions(rng, clip, flat[cells], places, level, original, paths)
        blocks = [self.writer.block(q.text, q.answer) for q in asked] or [self.writer.block("", "")]
        positions, newline = torch.arange(len(cells)), len(cells)
        if original:
            positions, newline = torch.from_numpy(places), factor * len(flat)
        chosen = torch.from_numpy(cells)
        # Few of the tokens of a clip are needed, so that reordering all of its features would take most of the time.
        features = self.encoded.features[index][frames[chosen // TOKENS_PER_FRAME], chosen % TOKENS_PER_FRAME]
        return features, positions, newline, blocks

    def _questions(
        self,
        rng: np.random.Generator,
        clip: Clip,
        owners: np.ndarray,
        places: np.ndarray,
        level: Level,
        original: bool,
        paths: bool,
    ) -> list[Question]:
        """Questions that the visible things answer, fewer of the kinds that are learnt early, and descriptions.

        If the level names kinds, a few questions of each of these instead.

        Parameters
        ----------
        owners, places: (K,) the thing and the index in the clip of each token.
        """
        of = self.encoded.recipe
        visible = {number - 1 for number in set(owners.tolist()) - {0}}
        timed = _timed(clip, owners, places) if original else set()
        pool = [q for q in of.world.questions(clip, rng, visible) if visible.issuperset(q.about)]
        pool = [pool[i] for i in rng.permutation(len(pool))]
        sentences = of.world.descriptions(clip, rng, visible)
        pool, sentences = (
            [q for q in each if q.kind not in _TIMED or timed.issuperset(q.about)] for each in (pool, sentences)
        )
        if level.kinds:
            by_kind = ([q for q in pool + sentences if q.kind == kind] for kind in level.kinds)
            return [q for asked in by_kind for q in asked[:_OF_A_KIND]]
        when = [q for q in pool if q.kind in _TIMED][:_OF_A_KIND]
        first = {q.kind: q for q in pool}
        late = [q for q in pool if q.kind in of.late and q.kind not in _TIMED] + when
        easy = [q for kind, q in first.items() if kind not in of.late and rng.random() < of.easy]
        late = [late[i] for i in rng.permutation(len(late))] if when else late
        chosen = (late + easy)[: _MORE_QUESTIONS if level.tokens >= _MANY_TOKENS else _QUESTIONS]
        for sentence in sentences:
            moves = sentence.kind == "trace" and clip.things[sentence.about[0]].role == "mover"
            chance = 0.9 if moves else of.described[sentence.kind]
            if (paths or sentence.kind == "describe") and rng.random() < chance:
                chosen.append(sentence)
        return chosen


def _choose(rng: np.random.Generator, owners: np.ndarray, level: Level, clip: Clip) -> np.ndarray:
    """Sorted indices of the tokens of a clip that a lesson contains."""
    if level.things is None:
        return np.sort(rng.choice(len(owners), min(level.tokens, len(owners)), replace=False))
    things = [number for number in np.unique(owners) if number]
    turning = {number for number in things if clip.things[number - 1].role == "turn"}
    if rng.random() >= level.all_things:
        things = list(rng.permutation(things)[: int(rng.integers(1, level.things + 1))])
        # Both parts of a thing that changes, and more often than other things.
        if turning and (rng.random() < _TURNS or not turning.isdisjoint(things)):
            things = sorted(turning.union(things))
    parts = [rng.choice(len(owners), int(rng.integers(0, level.background + 1)), replace=False)]
    for number in things:
        cells = np.flatnonzero(owners == number)
        # The first and the last cell are always included: they show where a thing comes from and where it goes.
        if len(cells) > level.cells:
            inner = rng.choice(cells[1:-1], level.cells - 2, replace=False)
            cells = np.concatenate([cells[:1], inner, cells[-1:]])
        parts.append(cells)
    return np.unique(np.concatenate(parts)) if things else np.zeros(1, np.int64)


def _shuffled(clip: Clip, rng: np.random.Generator) -> tuple[Clip, Tensor]:
    """The clip with its scenes in random order, and its frames in that order; every thing is in one scene."""
    shifts: dict[float, float] = {}
    frames: list[int] = []
    scenes = [clip.scenes[number] for number in rng.permutation(len(clip.scenes))]
    for scene in scenes:
        shifts[scene.start] = len(frames) - scene.start
        frames += range(int(scene.start), int(scene.end))

    def shift(start: float) -> float:
        return next(shifts[scene.start] for scene in scenes if scene.start <= start < scene.end)

    things = tuple(
        replace(thing, start=thing.start + shift(thing.start), end=thing.end + shift(thing.start))
        for thing in clip.things
    )
    moved = tuple(
        replace(scene, start=scene.start + shift(scene.start), end=scene.end + shift(scene.start), decoys=())
        for scene in scenes
    )
    return replace(clip, things=things, scenes=moved), torch.tensor(frames)


def _slowed(clip: Clip, factor: int) -> Clip:
    """The clip with everything taking `factor` times as long, as far as questions and descriptions are concerned."""

    def slow(part: _Part) -> _Part:
        return replace(part, start=factor * part.start, end=factor * part.end)

    things, scenes = tuple(map(slow, clip.things)), tuple(replace(slow(s), decoys=()) for s in clip.scenes)
    return replace(clip, length=factor * clip.length, things=things, scenes=scenes)


def _timed(clip: Clip, owners: np.ndarray, places: np.ndarray) -> set[int]:
    """The things whose first and last tokens in a lesson are in the same parts of the clip as their start and end."""
    frames = places // TOKENS_PER_FRAME
    out = set()
    for index in {int(number) - 1 for number in owners if number}:
        seen = frames[owners == index + 1]
        thing = clip.things[index]
        if [part_of(clip, float(frame)) for frame in (seen.min(), seen.max())] == [
            part_of(clip, time) for time in (thing.start, thing.end - 1)
        ]:
            out.add(index)
    return out
