"""Parts of a twin's prompt, before and after encoding.

Shape letters as in `tangovlm.tokens`; n tokens of a prompt, R features of a video or an image.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

PAD, IMAGE, VIDEO, FIRST_WORD, VOCABULARY = 0, 1, 2, 10, 64
"""Token ids; words are drawn from `FIRST_WORD` on."""


@dataclass(frozen=True)
class RandomWords:
    """Random words."""

    count: int
    seed: int

    @property
    def ids(self) -> list[int]:
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randint(FIRST_WORD, VOCABULARY, (self.count,), generator=generator).tolist()


@dataclass(frozen=True)
class TokenIds:
    """Tokens with known ids."""

    ids: tuple[int, ...]


@dataclass(frozen=True)
class Video:
    """Random frames; `wide` ones have another aspect ratio if the family accepts any."""

    frames: int
    seed: int
    wide: bool = False


@dataclass(frozen=True)
class Image:
    """A random picture."""

    seed: int


PromptPart = RandomWords | TokenIds | Video | Image
PromptParts = tuple[PromptPart, ...]


@dataclass(frozen=True, eq=False)
class EncodedPart:
    """An encoded part of a prompt.

    Parameters
    ----------
    ids: ``(n,)``, with placeholders.
    features: ``(R, D)`` for the placeholders among them; None for words.
    layers: features that are added after each of the first layers of the text model, ``(R, D)`` each.
    kept: ``(R,)`` bool, which of the features the text model receives.
    grid: T, H, W of a video or an image; None for words.
    """

    ids: list[int]
    features: Tensor | None = None
    layers: list[Tensor] = field(default_factory=list)
    kept: Tensor | None = None
    grid: tuple[int, int, int] | None = None

    @property
    def grid_tokens(self) -> int:
        """T * H * W; 0 for words."""
        return 0 if self.grid is None else math.prod(self.grid)


def mrope(pieces: Sequence[EncodedPart], placeholders: Sequence[int], interval: Sequence[float]) -> Tensor:
    """Position ids ``(3, n)`` of M-RoPE, counted token by token.

    Text is counted in all three axes. A video or an image that begins at position p has (p + time, p + row, p +
    column); the text after it continues at p + the longer side of its grid, whatever its length in time.

    Parameters
    ----------
    interval: of each video or image, difference of the position ids of two steps.
    """
    columns: list[tuple[int, int, int]] = []
    place, remaining = 0, list(interval)
    for piece in pieces:
        if piece.grid is None:
            columns += [(place + offset,) * 3 for offset in range(len(piece.ids))]
            place += len(piece.ids)
            continue
        frames, height, width = piece.grid
        step = remaining.pop(0)
        cells = [(t, h, w) for t in range(frames) for h in range(height) for w in range(width)]
        number, start = 0, None
        for token in piece.ids:
            if token not in placeholders:
                if start is not None:
                    place, start = start + max(height, width), None
                columns.append((place,) * 3)
                place += 1
                continue
            if start is None:
                start = place
                # Steps with text between them are counted from the beginning.
                first = cells[number][0]
            t, h, w = cells[number]
            columns.append((start + int((t - first) * step), start + h, start + w))
            number += 1
        if start is not None:
            place = start + max(height, width)
    return torch.tensor(columns).T if columns else torch.zeros(3, 0, dtype=torch.long)
