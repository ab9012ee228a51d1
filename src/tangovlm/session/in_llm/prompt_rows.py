"""The prompts of a batch while they pass through the layers: who is where, on the device; how many, on the host."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...methods.in_llm.common.base import Step


@dataclass(frozen=True, eq=False)
class Row:
    """One prompt.

    Parameters
    ----------
    index: ``(N,)`` int64, its positions in the padded batch, ascending.
    video: ``(N,)`` int64, which video of the prompt each belongs to, -1 for text.
    visual: ``(n,)`` int64, which of the N are visual.
    entered: visual tokens that entered the language model.
    memo: what the method remembers of this prompt.
    """

    index: Tensor
    video: Tensor
    visual: Tensor
    entered: int
    memo: Tensor | None = None

    @property
    def length(self) -> int:
        """N."""
        return self.index.numel()


def read_rows(valid: Tensor, video: Tensor) -> list[Row]:
    """Rows of a batch from ``(B, M)``: bool, what is no padding; int64, numbers of videos, -1 for text."""
    device = valid.device
    rows = []
    # One transfer for all rows; what follows is known on the host.
    for good, numbers in zip(*torch.stack([valid.long(), video]).cpu(), strict=True):
        index = good.nonzero().flatten()
        own = numbers[index]
        visual = (own >= 0).nonzero().flatten()
        rows.append(Row(index.to(device), own.to(device), visual.to(device), visual.numel()))
    return rows


def per_video(row: Row, videos: int | None = None) -> list[int]:
    """Visual tokens of each video of a prompt; `videos` is how many there are, None if that is not known yet."""
    if videos == 1:
        return [row.visual.numel()]
    counts: list[int] = torch.bincount(row.video[row.visual], minlength=videos or 0).tolist()
    return counts


@dataclass(frozen=True, eq=False)
class Change:
    """What a cut makes of one prompt.

    Parameters
    ----------
    row: the prompt behind the cut; its index is not set yet.
    source: ``(N',)`` int64, which of the old N each new one was; a new token has that of the last one kept.
    hidden: ``(N', D)``.
    """

    row: Row
    source: Tensor
    hidden: Tensor


def change(row: Row, hidden: Tensor, step: Step) -> Change:
    """Put a method's answer into a prompt with states ``(N, D)``."""
    kept = row.visual[step.indices]
    added = step.values.shape[0] - kept.numel()
    is_visual = torch.zeros(row.length, dtype=torch.bool, device=hidden.device)
    is_visual[row.visual] = True
    text = _first(~is_visual, row.length - row.visual.numel())
    places = torch.cat([text, kept, kept[-1:].expand(added)])
    states = torch.cat([hidden[text], step.values])
    # Stable, so that new tokens come behind the kept one whose place they share.
    order = places.argsort(stable=True)
    source = places[order]
    visual = _first(order >= text.numel(), step.values.shape[0])
    return Change(replace(row, video=row.video[source], visual=visual), source, states[order])


def _first(mask: Tensor, count: int) -> Tensor:
    """Ascending places of the `count` true values of a mask ``(n,)``, without asking the device how many there are."""
    return (~mask).long().argsort(stable=True)[:count]


def untouched(row: Row, hidden: Tensor) -> Change:
    """A prompt that goes on as it is."""
    return Change(row, torch.arange(row.length, device=hidden.device), hidden)


def pad_left(parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Tensors ``(N_b, ...)`` as one ``(B, M, ...)`` with zeros on the left, and ``(B, M)`` bool, what is no padding."""
    longest = max(part.shape[0] for part in parts)
    padded = parts[0].new_zeros(len(parts), longest, *parts[0].shape[1:])
    valid = torch.zeros(len(parts), longest, dtype=torch.bool, device=parts[0].device)
    for number, part in enumerate(parts):
        padded[number, longest - part.shape[0] :] = part
        valid[number, longest - part.shape[0] :] = True
    return padded, valid
