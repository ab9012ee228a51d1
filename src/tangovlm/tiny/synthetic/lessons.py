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

from ..cache import SeenClips
from ..tokenizer import ANSWER, END
from .questions import Question, descriptions, questions
from .world import LENGTHS, Clip

_QUESTIONS = 9
_HARD = ("count", "motion", "order", "brief")
_DESCRIBED = {"describe": 0.4, "trace": 0.3, "list": 0.9}
"""Share of the descriptions of a kind that are shown; the paths of movers nearly always."""
_ORIGINAL_POSITIONS = 0.25
"""Share of the clips whose tokens keep their places in the full clip, so that a short context has its geometry."""


@dataclass(frozen=True)
class Level:
    """How much of a clip is shown.

    things: at most so many things, or None for whole clips; all_things: share of the clips that show all things.
    cells: cells kept of each thing; background: at most so many random cells more.
    tokens: expected length of a clip's tokens, for sizing the batch; for whole clips, how many are kept at most.
    frames: clips of at most so many frames.
    """

    tokens: int
    things: int | None = None
    all_things: float = 0.0
    cells: int = 0
    background: int = 0
    frames: int = LENGTHS[-1]


FEW = Level(tokens=8, things=3, all_things=0.1, cells=3)
SOME = Level(tokens=24, things=8, all_things=0.5, cells=4, background=6)
MORE = Level(tokens=60, things=8, all_things=0.8, cells=8, background=32)
THIN = (Level(tokens=128), Level(tokens=256))
LONG = (Level(tokens=256), Level(tokens=512), Level(tokens=1024))
WHOLE = (Level(tokens=512, frames=8), Level(tokens=1024, frames=16), Level(tokens=2048, frames=32), Level(tokens=4096))

CURRICULUM: tuple[tuple[float, tuple[Level, ...]], ...] = (
    (0.0, (FEW,)),
    (0.25, (FEW, SOME, MORE)),
    (0.45, (SOME, MORE, *THIN)),
    (0.60, (MORE, *THIN, *LONG)),
    (0.80, (*THIN, *LONG, *WHOLE)),
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
    """Lesson `i` of `steps`, a function of the arguments and `i` alone.

    Args:
        first: step of the first lesson wanted; tokens: visual and text tokens in a lesson, about.
        begin: where in the curriculum step 0 stands, as a share of it.
    """

    def __init__(
        self,
        seen: SeenClips,
        writer: Writer,
        steps: int,
        first: int,
        tokens: int,
        seed: int = 21,
        begin: float = 0.0,
    ) -> None:
        self.seen, self.writer, self.steps, self.first = seen, writer, steps, first
        self.tokens, self.seed, self.begin = tokens, seed, begin
        lengths = np.array([clip.length for clip in seen.clips])
        self._up_to = {frames: np.flatnonzero(lengths <= frames) for frames in LENGTHS}

    def __len__(self) -> int:
        return self.steps - self.first

    def __getitem__(self, index: int) -> Lesson:
        step = self.first + index
        rng = np.random.default_rng([self.seed, step])
        share = self.begin + (1 - self.begin) * step / self.steps
        levels = next(levels for start, levels in reversed(CURRICULUM) if start <= share)
        level = levels[int(rng.integers(len(levels)))]
        clips = max(1, self.tokens // (level.tokens + 90))
        draws = [self._clip(rng, level, share >= _PATHS_FROM) for _ in range(clips)]
        return pack(*(list(column) for column in zip(*draws, strict=True)))

    def _clip(
        self, rng: np.random.Generator, level: Level, paths: bool
    ) -> tuple[Tensor, Tensor, int, list[tuple[list[int], int]]]:
        index = int(rng.choice(self._up_to[level.frames]))
        backwards = rng.random() < 0.5
        clip, features, owners = self.seen.clips[index], self.seen.features[index], self.seen.owners[index]
        if backwards:
            clip, features, owners = clip.reversed(), features.flip(0), owners.flip(0)
        flat = owners.flatten().numpy()
        cells = _choose(rng, flat, level)
        asked = _questions(rng, clip, set(flat[cells].tolist()) - {0}, paths)
        blocks = [self.writer.block(q.text, q.answer) for q in asked] or [self.writer.block("", "")]
        chosen = torch.from_numpy(cells)
        original = rng.random() < _ORIGINAL_POSITIONS
        places, full = (chosen, len(flat)) if original else (torch.arange(len(cells)), len(cells))
        return features.flatten(0, 1)[chosen], places, full, blocks


def _choose(rng: np.random.Generator, owners: np.ndarray, level: Level) -> np.ndarray:
    """Indices, sorted, of the tokens that a lesson shows of a clip."""
    if level.things is None:
        return np.sort(rng.choice(len(owners), min(level.tokens, len(owners)), replace=False))
    things = [number for number in np.unique(owners) if number]
    if rng.random() >= level.all_things:
        things = list(rng.permutation(things)[: int(rng.integers(1, level.things + 1))])
    parts = [rng.choice(len(owners), int(rng.integers(0, level.background + 1)), replace=False)]
    for number in things:
        cells = np.flatnonzero(owners == number)
        if len(cells) > level.cells:  # its first and its last always: they tell where it comes from and goes to
            inner = rng.choice(cells[1:-1], level.cells - 2, replace=False)
            cells = np.concatenate([cells[:1], inner, cells[-1:]])
        parts.append(cells)
    return np.unique(np.concatenate(parts)) if things else np.zeros(1, np.int64)


def _questions(rng: np.random.Generator, clip: Clip, shown: set[int], paths: bool) -> list[Question]:
    """Questions that what is shown answers, fewer of the kinds that are learnt early; descriptions of most things."""
    visible = {number - 1 for number in shown}
    pool = [q for q in questions(clip, rng, visible) if visible.issuperset(q.about)]
    pool = [pool[i] for i in rng.permutation(len(pool))]
    first = {q.kind: q for q in pool}
    hard = [q for q in pool if q.kind in _HARD]
    easy = [q for kind, q in first.items() if kind not in _HARD and rng.random() < 0.6]
    chosen = (hard + easy)[:_QUESTIONS]
    for sentence in descriptions(clip, rng, visible):
        moves = sentence.kind == "trace" and clip.things[sentence.about[0]].role == "mover"
        chance = 0.9 if moves else _DESCRIBED[sentence.kind]
        if (paths or sentence.kind == "describe") and rng.random() < chance:
            chosen.append(sentence)
    return chosen
