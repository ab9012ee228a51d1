"""M-RoPE positions of a prompt with pruned videos: every token has its position in the unpruned prompt.

vLLM computes the positions of a request before its videos are encoded. So positions of text are final from the start,
but those of a pruned video are pending: each of its tokens has the position ``-1 - base``, where the base is the first
position of the video in the unpruned prompt. The offset of a token from the base is stored with its embedding, in extra
channels, because vLLM caches embeddings and returns them for any request, any chunk of a prompt, and again after a
preemption.

Shape letters: N tokens of a prompt, L tokens of a pruned video in it, C channels of an embedding.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_DIGITS = 3
_BASE = 256
_NUMBERS = 5

CHANNELS = _NUMBERS * _DIGITS
"""Number of extra channels of an embedding."""


def append_positions(embeddings: Tensor, offsets: Tensor, lead: int) -> Tensor:
    """Append the positions of a pruned video to its embeddings.

    Parameters
    ----------
    embeddings: ``(L, C)``.
    offsets: ``(3, L)`` int64, positions in the unpruned prompt relative to the first one of the video.
    lead: number of tokens of the video before the first one with the id of a video token.

    Returns
    -------
    ``(L, C + CHANNELS)`` in the dtype of `embeddings`: digits to the base 256, which bfloat16 represents exactly.
    """
    place = torch.arange(len(embeddings))
    numbers = torch.stack([*offsets.cpu(), place, torch.full_like(place, lead)], dim=1)
    powers = _BASE ** torch.arange(_DIGITS)
    digits = (numbers[..., None] // powers % _BASE).flatten(1)
    return torch.cat([embeddings, digits.to(embeddings)], dim=1)


class _Part(NamedTuple):
    """Consecutive tokens of a pruned video: their offsets ``(3, n)``, the index of the first, and the video's lead."""

    offsets: Tensor
    place: int
    lead: int


def _read(channels: Tensor) -> _Part:
    """Decode the extra channels ``(n, CHANNELS)`` that `append_positions` wrote."""
    digits = channels.cpu().long().view(len(channels), _NUMBERS, _DIGITS)
    numbers = (digits * _BASE ** torch.arange(_DIGITS)).sum(dim=2)
    place, lead = numbers[0, 3:].tolist()
    return _Part(numbers[:, :3].T, place, lead)


def pending_positions(base: Tensor, length: int) -> Tensor:
    """Positions ``(3, length)`` of a pruned video before it is encoded; base: ``(3,)``."""
    return (-1 - base)[:, None].expand(-1, length)


def fill_positions(
    positions: Tensor,
    embeddings: Sequence[Tensor],
    width: int,
    input_ids: Sequence[int],
    video_token: int,
    computed: int,
) -> list[Tensor]:
    """Fill in the pending positions of the pruned videos in a chunk of a prompt.

    Parameters
    ----------
    positions: ``(3, N)`` int64 of the prompt; pending ones are replaced in place.
    embeddings: of the images and videos in the chunk, in order; the first and the last may be parts.
    width: C; only embeddings of pruned videos have extra channels.
    input_ids: of the prompt.
    computed: number of tokens of the prompt before the chunk.

    Returns
    -------
    The embeddings ``(n, C)`` without the extra channels.
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
        # Positions of a preempted request have been filled in before.
        chunk.copy_(torch.where(chunk < 0, offsets - 1 - chunk, chunk))
        place = stop
    return [embedding[:, :width] for embedding in embeddings]


def position_delta(positions: Tensor) -> int:
    """Position minus index in the sequence of a generated token, for a prompt that ends in text."""
    return int(positions[0, -1]) + 1 - positions.shape[1]
