"""Gathering, normalising and rotating tokens, a slab of rows at a time that stays in the cache."""

import torch
from torch import Tensor

from .tables import Tables

_SLAB_ELEMENTS = 1 << 20  # 4 MiB in float32


def rotate_rows_torch(features: Tensor, index: Tensor, norms: Tensor, tables: Tables) -> Tensor:
    """See `tangovlm.kernels.st_rope.rotate_rows`."""
    rotated = norms.new_empty(len(index), features.shape[1])
    step = max(1, _SLAB_ELEMENTS // features.shape[1])
    for part, some in zip(torch.split(rotated, step), torch.split(index, step), strict=True):
        _rotate(unit_rows(features, some, norms), some, tables, part)
    return rotated


def unit_rows(features: Tensor, index: Tensor, norms: Tensor) -> Tensor:
    """``features[index]``, each row divided by its norm, in the type of ``norms (N,)``."""
    return features.index_select(0, index).to(norms.dtype).div_(norms[index, None])


def _rotate(tokens: Tensor, index: Tensor, tables: Tables, rotated: Tensor) -> None:
    start = 0
    for size, place, table in tables.blocks(index):
        half = size // 2
        cos, sin = (values.index_select(0, place) for values in table)
        first, second = tokens[:, start : start + half], tokens[:, start + half : start + 2 * half]
        torch.mul(first, cos, out=rotated[:, start : start + half]).addcmul_(second, sin, value=-1)
        torch.mul(second, cos, out=rotated[:, start + half : start + 2 * half]).addcmul_(first, sin)
        rotated[:, start + 2 * half : start + size] = tokens[:, start + 2 * half : start + size]
        start += size
