"""What one step of the language stage is shown: a batch of clips, some of their tokens, and questions behind each.

The curriculum lengthens the context: first only the cells of a few things, at last whole clips. Where tokens are
dropped from a whole clip they are dropped uniformly at random, so that no way of choosing tokens is favoured.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

from .cache import SeenClips
from .model import FRAMES, TOKENS_PER_FRAME
from .questions import Question, descriptions, questions
from .tokenizer import ANSWER, END
from .world import Clip

TOKENS = FRAMES * TOKENS_PER_FRAME
_QUESTIONS = 8
_ORIGINAL_POSITIONS = 0.25
"""Share of the clips whose tokens keep their places in the full clip, so that a short context has its geometry."""


@dataclass(frozen=True)
class Level:
    """How much of a clip is shown.

    things: at most so many things, or None for whole clips; all_things: share of the clips that show all things.
    cells: cells kept of each thing; background: at most so many random cells more.
    kept: for whole clips, the numbers of tokens to choose from.
    tokens: expected length of a clip's tokens, for sizing the batch.
    """

    tokens: int
    things: int | None = None
    all_things: float = 0.0
    cells: int = 0
    background: int = 0
    kept: tuple[int, ...] = ()


FEW = Level(tokens=8, things=3, all_things=0.1, cells=3)
SOME = Level(tokens=24, things=8, all_things=0.5, cells=4, background=6)
MORE = Level(tokens=60, things=8, all_things=0.8, cells=8, background=32)
THIN = Level(tokens=200, kept=(128, 256))
LONG = Level(tokens=450, kept=(256, 512))
WHOLE = Level(tokens=1024, kept=(1024,))

CURRICULUM: tuple[tuple[float, tuple[Level, ...]], ...] = (
    (0.0, (FEW,)),
    (0.25, (FEW, SOME, MORE)),
    (0.45, (SOME, MORE, THIN)),
    (0.60, (MORE, THIN, LONG)),
    (0.80, (THIN, LONG, WHOLE)),
)
"""From which share of the steps on which levels are mixed."""
_PATHS_FROM = 0.06
"""Share of the steps from which paths and sequences are described too."""


@dataclass(frozen=True)
class Lesson:
    """One batch. B clips, K visual tokens, N text tokens.

    features (B, K, 192) float16, zero beyond `lengths` (B,); positions (B, K + 1 + N) of tokens, newline and text;
    text (B, N) token ids, block (B, N) which question a text token belongs to, -1 = padding;
    targets (B, N) the next token of the answers, -100 elsewhere.
    """

    features: Tensor
    lengths: Tensor
    positions: Tensor
    text: Tensor
    block: Tensor
    targets: Tensor


class Writer:
    """Turns questions into token ids: question, the answer mark, answer, end."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.answer = int(tokenizer.convert_tokens_to_ids(ANSWER))
        self.end = int(tokenizer.convert_tokens_to_ids(END))
        self._known: dict[str, list[int]] = {}

    def ids(self, text: str) -> list[int]:
        if text not in self._known:
            self._known[text] = self.tokenizer(text).input_ids
        return self._known[text]

    def block(self, question: str, answer: str) -> tuple[list[int], int]:
        """Token ids and the index of the answer's first."""
        asked = [*self.ids(question), self.answer]
        return [*asked, *self.ids(answer), self.end], len(asked)


def pack(
    features: list[Tensor], places: list[Tensor], full: list[int], blocks: list[list[tuple[list[int], int]]]
) -> Lesson:
    """Pad clips of tokens (K_i, 192) at the given places, and their questions, into one batch.

    `full` is the position of each clip's newline: the number of its tokens, or of the full clip's.
    """
    batch, visual = len(features), max(len(f) for f in features)
    words = max(sum(len(ids) for ids, _ in asked) for asked in blocks)
    text, block = torch.zeros(batch, words, dtype=torch.long), torch.full((batch, words), -1)
    targets = torch.full((batch, words), -100)
    positions = torch.zeros(batch, visual + 1 + words, dtype=torch.long)
    padded = torch.zeros(batch, visual, features[0].shape[-1], dtype=features[0].dtype)
    for row, (kept, place, asked) in enumerate(zip(features, places, blocks, strict=True)):
        padded[row, : len(kept)] = kept
        positions[row, : len(kept)] = place
        positions[row, visual] = full[row]
        at = 0
        for number, (ids, first) in enumerate(asked):
            stop = at + len(ids)
            text[row, at:stop] = torch.tensor(ids)
            block[row, at:stop] = number
            targets[row, at + first - 1 : stop - 1] = torch.tensor(ids[first:])
            positions[row, visual + 1 + at : visual + 1 + stop] = full[row] + 1 + torch.arange(len(ids))
            at = stop
    return Lesson(padded, torch.tensor([len(f) for f in features]), positions, text, block, targets)


class Lessons(Dataset[Lesson]):
    """Lesson `i` of `steps`, a function of the seed and `i` alone."""

    def __init__(self, seen: SeenClips, writer: Writer, steps: int, first: int, tokens: int, seed: int = 21) -> None:
        self.seen, self.writer, self.steps, self.first = seen, writer, steps, first
        self.tokens, self.seed = tokens, seed

    def __len__(self) -> int:
        return self.steps - self.first

    def __getitem__(self, index: int) -> Lesson:
        step = self.first + index
        rng = np.random.default_rng([self.seed, step])
        share = step / self.steps
        levels = next(levels for start, levels in reversed(CURRICULUM) if start <= share)
        level = levels[int(rng.integers(len(levels)))]
        kept = int(rng.choice(level.kept)) if level.kept else level.tokens
        clips = max(2, self.tokens // (kept + 90))
        draws = [self._clip(rng, level, kept, share >= _PATHS_FROM) for _ in range(clips)]
        return pack(*(list(column) for column in zip(*draws, strict=True)))

    def _clip(
        self, rng: np.random.Generator, level: Level, kept: int, paths: bool
    ) -> tuple[Tensor, Tensor, int, list[tuple[list[int], int]]]:
        index, backwards = int(rng.integers(len(self.seen.clips))), rng.random() < 0.5
        clip, features, owners = self.seen.clips[index], self.seen.features[index], self.seen.owners[index]
        if backwards:
            clip, features, owners = clip.reversed(), features.flip(0), owners.flip(0)
        flat = owners.flatten().numpy()
        cells = _choose(rng, flat, level, kept)
        asked = _questions(rng, clip, set(flat[cells].tolist()) - {0}, paths)
        blocks = [self.writer.block(q.text, q.answer) for q in asked] or [self.writer.block("", "")]
        chosen = torch.from_numpy(cells)
        original = rng.random() < _ORIGINAL_POSITIONS
        places, full = (chosen, TOKENS) if original else (torch.arange(len(cells)), len(cells))
        return features.flatten(0, 1)[chosen], places, full, blocks


def _choose(rng: np.random.Generator, owners: np.ndarray, level: Level, kept: int) -> np.ndarray:
    """Indices, sorted, of the tokens that a lesson shows of a clip."""
    if level.things is None:
        return np.sort(rng.choice(TOKENS, kept, replace=False))
    things = [number for number in np.unique(owners) if number]
    if rng.random() >= level.all_things:
        things = list(rng.permutation(things)[: int(rng.integers(1, level.things + 1))])
    parts = [rng.choice(TOKENS, int(rng.integers(0, level.background + 1)), replace=False)]
    for number in things:
        cells = np.flatnonzero(owners == number)
        if len(cells) > level.cells:  # its first and its last always: they tell where it comes from and goes to
            inner = rng.choice(cells[1:-1], level.cells - 2, replace=False)
            cells = np.concatenate([cells[:1], inner, cells[-1:]])
        parts.append(cells)
    return np.unique(np.concatenate(parts)) if things else np.zeros(1, np.int64)


def _questions(rng: np.random.Generator, clip: Clip, shown: set[int], paths: bool) -> list[Question]:
    """One question of each kind that what is shown answers, then others; descriptions of most things shown."""
    visible = {number - 1 for number in shown}
    pool = [q for q in questions(clip, rng, visible) if visible.issuperset(q.about)]
    pool = [pool[i] for i in rng.permutation(len(pool))]
    first = list({q.kind: q for q in pool}.values())
    chosen = (first + [q for q in pool if q not in first])[:_QUESTIONS]
    for sentence in descriptions(clip, rng, visible):
        chance = 0.6 if sentence.kind == "describe" else 0.5 if paths else 0.0
        if rng.random() < chance:
            chosen.append(sentence)
    return chosen
