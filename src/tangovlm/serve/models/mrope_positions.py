"""M-RoPE positions of a prompt in which videos are pruned: every token has the position of the unpruned prompt.

vLLM asks for a request's positions before its videos are encoded. So those of text are final from the start, while each
token of a pruned video holds the base of its video, its first position in the unpruned prompt, as ``-1 - base``. What a
token is away from the base comes with its embedding, in channels behind the others, as embeddings are kept and handed
out by vLLM for any request, any chunk of a prompt, and again after a preemption.

Shape letters: N tokens of a prompt, L tokens of a pruned video's place in it, C channels of an embedding.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_DIGITS = 3
_BASE = 256
_NUMBERS = 5

CHANNELS = _NUMBERS * _DIGITS
"""Of an embedding, beside its own."""


def attached(rows: Tensor, offsets: Tensor, lead: int) -> Tensor:
    """Embeddings of a pruned video with their positions behind them.

    Parameters
    ----------
    rows: ``(L, C)``.
    offsets: ``(3, L)`` int64, positions in the unpruned prompt counted from the video's first.
    lead: tokens of the video's place in the prompt in front of the first with the video's own id.

    Returns
    -------
    ``(L, C + CHANNELS)`` in the dtype of `rows`: digits to the base 256, which even bfloat16 holds exactly.
    """
    place = torch.arange(len(rows))
    numbers = torch.stack([*offsets.cpu(), place, torch.full_like(place, lead)], dim=1)
    powers = _BASE ** torch.arange(_DIGITS)
    digits = (numbers[..., None] // powers % _BASE).flatten(1)
    return torch.cat([rows, digits.to(rows)], dim=1)


class _Part(NamedTuple):
    """Consecutive embeddings of a pruned video: offsets ``(3, n)``, the place of the first, and `attached`'s lead."""

    offsets: Tensor
    place: int
    lead: int


def _read(channels: Tensor) -> _Part:
    """What `attached` wrote, from ``(n, CHANNELS)``."""
    digits = channels.cpu().long().view(len(channels), _NUMBERS, _DIGITS)
    numbers = (digits * _BASE ** torch.arange(_DIGITS)).sum(dim=2)
    place, lead = numbers[0, 3:].tolist()
    return _Part(numbers[:, :3].T, place, lead)


def pending(base: Tensor, length: int) -> Tensor:
    """Positions ``(3, length)`` of a pruned video until its embeddings come; base: ``(3,)``."""
    return (-1 - base)[:, None].expand(-1, length)


def settle(
    positions: Tensor,
    embeddings: Sequence[Tensor],
    width: int,
    input_ids: Sequence[int],
    video_token: int,
    computed: int,
) -> list[Tensor]:
    """Give the pruned videos of a chunk of a prompt their positions.

    Parameters
    ----------
    positions: ``(3, N)`` int64 of the prompt, changed in place where they are pending.
    embeddings: of the chunk, in the order of the prompt; those of videos may be cut off at its borders.
    width: C; others than those of pruned videos have nothing behind them.
    input_ids: of the prompt.
    computed: tokens of the prompt in front of the chunk.

    Returns
    -------
    The embeddings ``(n, C)``.
    """
    place = computed
    for embedding in embeddings:
        if embedding.shape[1] != width + CHANNELS:
            continue
        part = _read(embedding[:, width:])
        if part.place == 0:
            place = input_ids.index(video_token, place) - part.lead
        stop = place + len(embedding)
        chunk = positions[:, place:stop]
        offsets = part.offsets.to(positions.device)
        # A preempted request comes again with positions that are settled.
        chunk.copy_(torch.where(chunk < 0, offsets - 1 - chunk, chunk))
        place = stop
    return [embedding[:, :width] for embedding in embeddings]


def delta(positions: Tensor) -> int:
    """What a generated token's position is away from its place in the sequence, for a prompt that ends in text."""
    return int(positions[0, -1]) + 1 - positions.shape[1]
