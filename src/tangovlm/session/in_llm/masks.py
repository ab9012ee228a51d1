"""Attention masks of layers that hold fewer positions than the first, and what a cache remembers of them.

Layers between two cuts form a group and hold the same positions. Stock code makes one mask, for the first layer; the
groups behind a cut get their own.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...errors import ModelError


@dataclass(frozen=True, eq=False)
class Held:
    """Positions that the layers of one group hold in a cache.

    Parameters
    ----------
    mask: ``(B, n)`` bool, which of them are no padding.
    padded: whether any is (kept beside the mask, since asking the device costs a synchronisation).
    """

    mask: Tensor
    padded: bool

    def picked(self, index: Tensor) -> "Held":
        """The same of some rows."""
        return replace(self, mask=self.mask[index.to(self.mask.device)])

    def followed_by(self, mask: Tensor, padded: bool) -> "Held":
        """With new positions ``(B, q)`` behind."""
        return Held(torch.cat([self.mask, mask], dim=1), self.padded or padded)

    def positions(self, new: int) -> Tensor:
        """Positions ``(B, new)`` of the last ones when all are counted without gaps."""
        return (self.mask.long().cumsum(dim=1) - 1).clamp_min(0)[:, -new:]


@dataclass(frozen=True, eq=False)
class Memory:
    """What a cache remembers: what the groups behind each cut hold when the first layer holds `length` positions."""

    groups: tuple[Held, ...]
    length: int

    @property
    def batch(self) -> int:
        """See `carried.State.batch`."""
        return self.groups[0].mask.shape[0]

    def picked(self, index: Tensor) -> "Memory":
        """See `carried.State.picked`."""
        return replace(self, groups=tuple(held.picked(index) for held in self.groups))

    def cropped(self, length: int) -> "Memory":
        """The memory of a cache from which the last positions of every layer were taken back."""
        if length >= self.length:
            return self
        gone = self.length - length
        groups = tuple(replace(held, mask=held.mask[:, : max(0, held.mask.shape[1] - gone)]) for held in self.groups)
        return Memory(groups, length)


def attention_mask(held: Held, new: int, width: int, implementation: str, dtype: torch.dtype) -> Tensor | None:
    """What a layer takes for its mask when the last `new` of the positions held are queries.

    Parameters
    ----------
    width: keys that the layer's cache gives, more than are held where it is static.
    implementation: of the model's attention.
    dtype: of the hidden states.

    Raises
    ------
    ModelError: an attention whose masks are not known here.
    """
    batch, length = held.mask.shape
    if implementation.startswith("flash"):
        return held.mask if held.padded else None
    if implementation not in ("sdpa", "eager"):
        raise ModelError(f"pruning inside the model knows the attention sdpa, eager and flash, not {implementation!r}")
    if implementation == "sdpa" and not held.padded and (new == length or (new == 1 and width == length)):
        return None
    places = torch.arange(width, device=held.mask.device)
    queries = torch.arange(length - new, length, device=held.mask.device)[:, None]
    seen = torch.nn.functional.pad(held.mask, (0, width - length))[:, None, None, :] & (places <= queries)
    # Padding sees itself: a row that sees nothing is NaN in some kernels.
    seen = seen | (places == queries)
    if implementation == "sdpa":
        return seen
    return torch.zeros(batch, 1, new, width, dtype=dtype, device=seen.device).masked_fill_(
        ~seen, torch.finfo(dtype).min
    )
