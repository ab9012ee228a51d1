"""Merging each cluster of tokens into its anchor."""

from torch import Tensor, cat, float64

from .. import variant
from .pytorch import blend_torch, offset_pieces

__all__ = ["blend_ragged", "cluster_offsets"]


def blend_ragged(values: Tensor, index: Tensor, centers: Tensor, labels: Tensor, anchor_weight: float) -> Tensor:
    """``w * anchor + (1 - w) * mean of the members`` of each cluster, including the anchor.

    Parameters
    ----------
    values: ``(N, D)``, any floating type.
    index: ``(M,)`` int64 indices into ``values``: the tokens to merge.
    centers: ``(C,)`` int64, the anchor of each cluster, as an index into ``index``.
    labels: ``(M,)`` int64, the cluster of each token; no cluster is empty.
    anchor_weight: w in [0, 1].

    Returns ``(C, D)`` in float32 (float64 for float64). A cluster of one is an exact copy of its anchor, and so is a
    cluster of equal tokens.
    """
    if values.dtype != float64 and variant(values.device) == "triton":
        from .triton import blend_ragged_triton

        return blend_ragged_triton(values, index, centers, labels, anchor_weight)
    return blend_torch(values, index, centers, labels, anchor_weight)


def cluster_offsets(values: Tensor, index: Tensor, centers: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Anchors ``(C, D)``, the mean of each cluster minus its anchor ``(C, D)``, and member counts ``(C, 1)``.

    All in float32 (float64 for float64); for the parameters see `blend_ragged`; there is at least one cluster. A
    difference within the rounding error of a sum of a few hundred equal values is set to zero.
    """
    pieces = list(offset_pieces(values, index, centers, labels))
    own, offsets, members = (cat([piece[part] for piece in pieces]) for part in range(3))
    return own, offsets, members
