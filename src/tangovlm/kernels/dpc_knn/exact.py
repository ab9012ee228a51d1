"""Squared distances without rounding error, for points that a faster product cannot tell apart.

A matrix product rounds in an order of its own: d(a, b) and d(b, a), or the distances of equal points, differ in their
last bits, and rounding decides ties. So the points are put on a grid so fine that it costs less than float32 does, and
so coarse that every product is an exact integer in float64, and so is every squared distance up to 2^53 steps squared;
longer ones are rounded once.
"""

import torch
from torch import Tensor

_GRID_BITS = 26  # products then have at most 53 bits
_BLOCK_ELEMENTS = 1 << 20  # coordinates in float64 at a time, 8 MiB


def grid_scale(largest: Tensor) -> Tensor:
    """What puts points on the grid, float64 of the shape of ``largest``, the largest norm of each pool.

    A power of two; scaled norms are below 4/3 of 2^26.
    """
    return torch.exp2(_GRID_BITS - torch.frexp(largest.double() * 0.75).exponent.double())


def exact_squared(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    """Squared distances ``(..., x, y)`` of ``a (..., x, D)`` and ``b (..., y, D)`` in their type, never below zero.

    Parameters
    ----------
    scale: ``(...)``, see `grid_scale`; the same for all points that are compared with each other.
    """
    step = max(1, _BLOCK_ELEMENTS // (a.shape[-1] * max(1, a[..., 0, 0].numel())))
    scale = scale[..., None, None]
    unit = scale.square().reciprocal_()
    distances = a.new_empty(*a.shape[:-1], b.shape[-2])
    for i in range(0, a.shape[-2], step):
        left = (a[..., i : i + step, :] * scale).round_()
        own = torch.linalg.vecdot(left, left)[..., None]
        for j in range(0, b.shape[-2], step):
            right = left if a is b and i == j else (b[..., j : j + step, :] * scale).round_()
            products = left @ right.mT
            # In this order no sum of near points is rounded; |a|^2 + |b|^2 would pass 2^53.
            squared = (own - products).add_(torch.linalg.vecdot(right, right)[..., None, :] - products)
            distances[..., i : i + step, j : j + step] = squared.clamp_min_(0).mul_(unit)
    return distances
