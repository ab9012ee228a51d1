"""Parts of a twin's prompt, and what they become.

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
class Words:
    """Random words."""

    count: int
    seed: int

    @property
    def ids(self) -> list[int]:
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randint(FIRST_WORD, VOCABULARY, (self.count,), generator=generator).tolist()


@dataclass(frozen=True)
class Said:
    """Given words."""

    ids: tuple[int, ...]


@dataclass(frozen=True)
class Video:
    """Random frames; `wide` ones have another aspect ratio where a family takes any."""

    frames: int
    seed: int
    wide: bool = False


@dataclass(frozen=True)
class Image:
    """A random picture."""

    seed: int


Part = Words | Said | Video | Image
Row = tuple[Part, ...]


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of a prompt, ready to be read.

    Parameters
    ----------
    ids: ``(n,)``, with placeholders.
    rows: ``(R, D)`` features for the placeholders among them; None for words.
    layers: what is added to them behind the first layers of the text model, ``(R, D)`` each.
    kept: ``(R,)`` bool, which of the features the text model gets.
    grid: T, H, W of a video or an image; None for words.
    """

    ids: list[int]
    rows: Tensor | None = None
    layers: list[Tensor] = field(default_factory=list)
    kept: Tensor | None = None
    grid: tuple[int, int, int] | None = None

    @property
    def grid_tokens(self) -> int:
        """T * H * W; 0 for words."""
        return 0 if self.grid is None else math.prod(self.grid)


def mrope(pieces: Sequence[Piece], placeholders: Sequence[int], interval: Sequence[float]) -> Tensor:
    """Position ids ``(3, n)`` of M-RoPE, counted token by token.

    Text counts on in all three rows. A video or an image that begins at position p has (p + time, p + row, p + column);
    what follows it goes on at p + the longer side of its grid, whatever its length in time.

    Parameters
    ----------
    interval: of each video or image, position ids between two of its steps.
    """
    columns: list[tuple[int, int, int]] = []
    place, waiting = 0, list(interval)
    for piece in pieces:
        if piece.grid is None:
            columns += [(place + offset,) * 3 for offset in range(len(piece.ids))]
            place += len(piece.ids)
            continue
        frames, height, width = piece.grid
        step = waiting.pop(0)
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
                # Steps that text separates begin anew.
                first = cells[number][0]
            t, h, w = cells[number]
            columns.append((start + int((t - first) * step), start + h, start + w))
            number += 1
        if start is not None:
            place = start + max(height, width)
    return torch.tensor(columns).T if columns else torch.zeros(3, 0, dtype=torch.long)
