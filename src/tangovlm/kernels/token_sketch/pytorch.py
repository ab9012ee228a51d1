"""Sketches of tokens in PyTorch, on any device.

Every step is exact or rounds once, in a fixed order: the sums over channels are elementwise operations, and the squared
norm is a sum of integers in float64.
"""

import torch
from torch import Tensor

SCALE = 2000
"""Norm of a sketch."""
MAX_CHANNELS = 1024
"""Rounding the coordinates of more channels could lengthen a sketch too much for exact distances."""
_NORM_SCALE = 1 << 20  # coordinates are rounded to this grid before their squares are summed
# Values of tokens processed at a time: on a CPU 2 MiB in float32, to fit its cache.
_SLAB_ELEMENTS = (1 << 19, 1 << 26)


def sketch_torch(features: Tensor, channels: int) -> Tensor:
    """See `tangovlm.kernels.token_sketch.sketch_tokens`."""
    count, dim = features.shape
    wide = torch.float64 if features.dtype == torch.float64 else torch.float32
    sums = torch.zeros(count, min(dim, channels), dtype=wide, device=features.device)
    signs = channel_signs(dim, features.device).to(wide) if dim > channels else None
    step = max(1, _SLAB_ELEMENTS[features.device.type != "cpu"] // dim)
    for start in range(0, count, step):
        part, into = features[start : start + step].to(wide), sums[start : start + step]
        if signs is None:
            into.copy_(part)
            continue
        for first in range(0, dim, channels):
            some = slice(first, min(first + channels, dim))
            # A product with a sign is exact, so that it does not matter whether it is fused with the sum.
            into[:, : some.stop - first].addcmul_(part[:, some], signs[some])
    return to_grid(sums)


def to_grid(vectors: Tensor) -> Tensor:
    """Vectors ``(n, m)``, float32 or float64, scaled to the norm `SCALE` and rounded to integers, in float32."""
    # Divided by the largest coordinate first: squares of large or small values must not overflow or vanish.
    largest = vectors.abs().amax(dim=1, keepdim=True)
    whole = (vectors / largest.masked_fill(largest == 0, 1)).mul_(_NORM_SCALE).round_().double()
    norms = whole.square().sum(dim=1, keepdim=True).sqrt_()
    return whole.mul_(SCALE).div_(norms.masked_fill_(norms == 0, 1)).round_().float()


def channel_signs(dim: int, device: torch.device) -> Tensor:
    """``(dim,)`` int64 of 1 and -1: a bit of an integer hash of each channel's number."""
    mixed = torch.arange(dim, device=device)
    for _ in range(2):
        mixed = ((mixed >> 16) ^ mixed) * 0x45D9F3B & 0xFFFFFFFF
    return (((mixed >> 16) ^ mixed) >> 8 & 1) * 2 - 1
