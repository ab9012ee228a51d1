"""Operation counts of a prefill, by formula."""

from collections.abc import Sequence

from ..errors import InputError


def prefill_flops(
    tokens_per_layer: Sequence[int],
    *,
    hidden: int,
    intermediate: int,
    mlp_matrices: int = 3,
    heads: int = 1,
    kv_heads: int | None = None,
) -> int:
    """Multiply-accumulates of a prefill: ``2nd^2 (1 + g) + 2n^2d + 3ndm`` per layer, with g = ``kv_heads / heads``.

    With g = 1 this is the ``4nd^2 + 2n^2d + 3ndm`` of FastV (arXiv 2403.06764); like the Tango paper (arXiv 2604.09547)
    it counts grouped keys and values by their actual width. The vision encoder, embeddings and head are not included.

    Parameters
    ----------
    tokens_per_layer: n of each layer. hidden, intermediate: d and m.
    mlp_matrices: 3 for a gated MLP, 2 for a plain one.
    heads, kv_heads: numbers of query heads and of key-value heads, which divide them; None means equally many.

    Raises
    ------
    InputError: a negative length, a width below 1, or heads that do not divide.
    """
    kv_heads = heads if kv_heads is None else kv_heads
    if min(hidden, intermediate, mlp_matrices, heads, kv_heads) < 1 or any(n < 0 for n in tokens_per_layer):
        raise InputError(
            f"lengths must be >= 0 and widths >= 1, not lengths {list(tokens_per_layer)!r}, hidden {hidden}, "
            f"intermediate {intermediate}, mlp_matrices {mlp_matrices}, heads {heads}, kv_heads {kv_heads}"
        )
    if heads % kv_heads or hidden % heads:
        raise InputError(f"kv_heads {kv_heads} must divide heads {heads}, and heads must divide hidden {hidden}")
    weights = 2 * hidden * (hidden + hidden // heads * kv_heads) + mlp_matrices * hidden * intermediate
    layers = len(tokens_per_layer)
    return prefill_macs(tokens_per_layer, [weights] * layers, [hidden] * layers)


def prefill_macs(
    tokens_per_layer: Sequence[int], weights_per_layer: Sequence[int], attention_widths: Sequence[int]
) -> int:
    """The formula of `prefill_flops` for any layers: ``nw + 2n^2a`` each.

    Parameters
    ----------
    tokens_per_layer: n of each layer.
    weights_per_layer: w of each layer: weights of the matrices by which it multiplies a token.
    attention_widths: a of each layer, number of query heads times their width; 0 for one that does not attend.
    """
    layers = zip(tokens_per_layer, weights_per_layer, attention_widths, strict=True)
    return sum(n * weights + 2 * n**2 * width for n, weights, width in layers)
