"""Rows of an attention map, from queries and keys before rotary embedding; never the whole map."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ...methods.common.similarity import compute_dtype

CHUNK_WEIGHTS = 2**22
"""The most weights that `LayerProbe.attention_chunks` returns at a time, unless one query has more."""


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of ``(heads, N, d)`` by tables ``(N, d)``; channel i is rotated with channel i + d/2."""
    half = states.shape[-1] // 2
    rotated = torch.cat([-states[..., half:], states[..., :half]], dim=-1)
    return states * cos + rotated * sin


def attention_rows(queries: Tensor, keys: Tensor, places: Tensor, scaling: float, past: Tensor | None = None) -> Tensor:
    """Rows of the causal softmax in float32 (float64 for float64 input).

    Parameters
    ----------
    queries: ``(A, R, d)``, rotated.
    keys: ``(G, N, d)``, rotated; G divides A.
    places: ``(R,)`` position of each query among the N keys.
    scaling: of the logits.
    past: ``(G, P, d)`` keys of earlier turns, visible to all queries.

    Returns
    -------
    ``(A, R, N)``; the weights of the past are left out.
    """
    number_type = compute_dtype(queries.dtype)
    heads, count, _ = queries.shape
    groups, length, _ = keys.shape
    visible = keys if past is None else torch.cat([past, keys], dim=1)
    grouped = queries.to(number_type).reshape(groups, heads // groups * count, -1)
    logits = (grouped @ visible.to(number_type).transpose(1, 2)).view(heads, count, -1) * scaling
    later = torch.arange(length, device=places.device) > places[:, None]
    logits[..., -length:].masked_fill_(later, float("-inf"))
    return logits.softmax(dim=-1)[..., -length:]


@dataclass(frozen=True, eq=False)
class LayerProbe:
    """The `AttentionProbe` of one prompt at one layer.

    Parameters
    ----------
    query: returns queries ``(A, R, d)`` of positions ``(R,)``, before rotation.
    key: returns keys ``(G, N, d)``, before rotation.
    cos, sin: ``(N, d)``.
    scaling: of the attention's logits.
    past: returns rotated keys ``(G, P, d)`` of earlier turns, or None.
    final_norm: the norm after the model's last layer.
    """

    query: Callable[[Tensor], Tensor]
    key: Callable[[], Tensor]
    cos: Tensor
    sin: Tensor
    scaling: float
    past: Callable[[], Tensor | None]
    final_norm: Callable[[Tensor], Tensor]

    def attention(self, queries: Tensor | None = None) -> Tensor:
        """See `AttentionProbe.attention`."""
        if queries is None:
            queries = torch.tensor([self.cos.shape[0] - 1], device=self.cos.device)
        rotated = rotate(self.query(queries), self.cos[queries], self.sin[queries])
        return attention_rows(rotated, self.keys(), queries, self.scaling, self.past())

    def attention_chunks(self, queries: Tensor) -> Iterator[Tensor]:
        """See `AttentionProbe.attention_chunks`."""
        keys, past = self.keys(), self.past()
        # The number of heads follows from the first query.
        weights = self.query(queries[:1]).shape[0] * (keys.shape[1] + (0 if past is None else past.shape[1]))
        for part in torch.split(queries, max(1, CHUNK_WEIGHTS // weights)):
            rotated = rotate(self.query(part), self.cos[part], self.sin[part])
            yield attention_rows(rotated, keys, part, self.scaling, past)

    def keys(self) -> Tensor:
        """See `AttentionProbe.keys`."""
        return rotate(self.key(), self.cos, self.sin)

    def norm(self, hidden: Tensor) -> Tensor:
        """See `AttentionProbe.norm`."""
        return self.final_norm(hidden)
