"""Attention masks for layers that hold fewer positions than the first.

Layers between two cuts form a group and hold the same positions. Stock code makes one mask, for the first layer; the
groups after a cut need their own.
"""

import torch
from torch import Tensor

from ...errors import ModelError
from ..cache_state import LayerPositions


def attention_mask(
    positions: LayerPositions, new: int, width: int, implementation: str, dtype: torch.dtype
) -> Tensor | None:
    """The mask that a layer is given when the last `new` of its positions are queries.

    Parameters
    ----------
    width: keys in the layer's cache, which are more than its positions if the cache is static.
    implementation: of the model's attention.
    dtype: of the hidden states.

    Returns
    -------
    Depends on the implementation: ``(B, 1, new, width)`` bool for "sdpa" and in `dtype` for "eager", ``(B, n)`` bool
    for flash attention; None where the layer needs no mask.

    Raises
    ------
    ModelError: an implementation whose masks are not known here.
    """
    batch, length = positions.valid.shape
    if implementation.startswith("flash"):
        return positions.valid if positions.has_padding else None
    if implementation not in ("sdpa", "eager"):
        raise ModelError(
            f"pruning inside the model supports the attention implementations sdpa, eager and flash, not "
            f"{implementation!r}"
        )
    if implementation == "sdpa" and not positions.has_padding and (new == length or (new == 1 and width == length)):
        return None
    keys = torch.arange(width, device=positions.valid.device)
    queries = torch.arange(length - new, length, device=positions.valid.device)[:, None]
    valid = torch.nn.functional.pad(positions.valid, (0, width - length))[:, None, None, :]
    # Padding attends to itself: a query without keys is NaN in some kernels.
    visible = (valid & (keys <= queries)) | (keys == queries)
    if implementation == "sdpa":
        return visible
    return torch.zeros(batch, 1, new, width, dtype=dtype, device=visible.device).masked_fill_(
        ~visible, torch.finfo(dtype).min
    )
