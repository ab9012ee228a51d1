"""What a method inside the language model reads, and what it returns.

Shape letters, in addition to those of `tangovlm.tokens`:

    N  positions of one prompt in the current layer, without padding      n  visual tokens among them
    R  query positions          A  attention heads          G  key-value heads          d  channels of a head
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ....budget import count
from ...common.selection import top_indices


class AttentionProbe(Protocol):
    """Attention of the layer that a method reads; computed only on request."""

    def attention(self, queries: Tensor | None = None) -> Tensor:
        """Attention weights ``(A, R, N)`` of the queries ``(R,)``, by default of the last position only."""
        ...

    def attention_chunks(self, queries: Tensor) -> Iterator[Tensor]:
        """Attention weights ``(A, r, N)`` of a few of the queries ``(R,)`` at a time, in their order."""
        ...

    def keys(self) -> Tensor:
        """Keys ``(G, N, d)``, after rotary embedding."""
        ...

    def norm(self, hidden: Tensor) -> Tensor:
        """The model's final norm of hidden states ``(..., D)``."""
        ...


@dataclass(frozen=True, eq=False)
class PromptView:
    """One prompt before a layer.

    Parameters
    ----------
    hidden: ``(N, D)`` hidden states.
    visual: ``(n,)`` int64, ascending positions of the visual tokens.
    entered: visual tokens that entered the language model.
    ratio: fraction of those to keep.
    probe: see `AttentionProbe`.
    memo: the return value of the method's `prepare`.
    trailing: number of text tokens after the last feature of a video, of which newlines are one; None if no features
        but the visual tokens are among the N.
    """

    hidden: Tensor
    visual: Tensor
    entered: int
    ratio: float
    probe: AttentionProbe
    memo: Tensor | None = None
    trailing: int | None = None

    @property
    def keep(self) -> int:
        """Visual tokens to keep: ``budget.count(ratio, entered)``, at most n."""
        return kept_at_cut(self.ratio, self.entered, self.visual.numel())

    @property
    def text(self) -> Tensor:
        """``(t,)`` int64, ascending positions after the last visual token."""
        return torch.arange(int(self.visual[-1]) + 1, self.hidden.shape[0], device=self.visual.device)

    @property
    def question(self) -> Tensor:
        """``(q,)`` int64: those of `text` that are not features of a video, such as the newline after its last row."""
        if self.trailing is None:
            return self.text
        length = self.hidden.shape[0]
        return torch.arange(length - self.trailing, length, device=self.visual.device)


def kept_at_cut(ratio: float, entered: int, present: int) -> int:
    """``budget.count(ratio, entered)``, at least one and at most as many as are present."""
    return min(count(ratio, entered) if ratio else 1, present)


class LayerSelection(NamedTuple):
    """The visual tokens that enter a layer.

    Parameters
    ----------
    indices: ``(k,)`` int64, strictly increasing, into the n visual tokens.
    values: ``(k + m, D)`` in the dtype of the hidden states; the last m are new tokens, placed after the k kept ones.
    """

    indices: Tensor
    values: Tensor


def highest(scores: Tensor, keep: int) -> Tensor:
    """Ascending indices ``(keep,)`` of the highest of ``scores (n,)``; the lowest index wins a tie."""
    return top_indices(scores[None], keep)[0].sort().values
