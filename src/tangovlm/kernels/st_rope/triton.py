"""ST-RoPE for CUDA in Triton: gathers, normalizes and rotates in a single read of each token."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .pytorch import Tables

_PAIRS = 256  # of channels at a time: two for each of 128 threads


def rotate_rows_triton(features: Tensor, index: Tensor, norms: Tensor, tables: Tables) -> Tensor:
    """See `tangovlm.kernels.st_rope.rotate_rows`, for norms and tables in float32, the tables contiguous."""
    count, dim = len(index), features.shape[1]
    rotated = torch.empty(count, dim, dtype=torch.float32, device=features.device)
    if rotated.numel():
        _, height, width = tables.shape
        with torch.cuda.device_of(features):
            # Rounds as PyTorch does on most CPUs: no fused multiply-adds but the explicit ones in the kernel, so that
            # points that differ by rounding only are ordered alike on every device.
            _rotate[(count,)](
                features.contiguous(), index.contiguous(), norms, *tables.time, *tables.row, *tables.column, rotated,
                height, width, *tables.sections, PAIRS=_PAIRS, enable_fp_fusion=False,
            )  # fmt: skip
    return rotated


@triton.jit
def _rotate(
    features, index, norms, cos_t, sin_t, cos_h, sin_h, cos_w, sin_w, rotated, height, width, dim_t, dim_h, dim_w,
    PAIRS: tl.constexpr,
):  # fmt: skip
    """One token."""
    to = tl.program_id(0).to(tl.int64)
    row = tl.load(index + to)
    norm = tl.load(norms + row)
    dim = dim_t + dim_h + dim_w
    t, h, w = row // (height * width), row // width % height, row % width
    source, target = features + row * dim, rotated + to * dim
    _section(source, target, norm, cos_t, sin_t, t, dim_t, PAIRS)
    _section(source + dim_t, target + dim_t, norm, cos_h, sin_h, h, dim_h, PAIRS)
    _section(source + dim_t + dim_h, target + dim_t + dim_h, norm, cos_w, sin_w, w, dim_w, PAIRS)


@triton.jit
def _section(source, target, norm, cos, sin, position, dim, PAIRS: tl.constexpr):
    """One block of channels: pairs (k, k + dim // 2), and the unchanged last channel of an odd block."""
    half = dim // 2
    for start in range(0, half, PAIRS):
        pair = start + tl.arange(0, PAIRS)
        inside = pair < half
        first = tl.div_rn(tl.load(source + pair, mask=inside, other=0.0).to(tl.float32), norm)
        second = tl.div_rn(tl.load(source + half + pair, mask=inside, other=0.0).to(tl.float32), norm)
        c = tl.load(cos + position * half + pair, mask=inside, other=0.0)
        s = tl.load(sin + position * half + pair, mask=inside, other=0.0)
        tl.store(target + pair, tl.fma(-second, s, first * c), mask=inside)
        tl.store(target + half + pair, tl.fma(first, s, second * c), mask=inside)
    if dim % 2 == 1:
        tl.store(target + dim - 1, tl.div_rn(tl.load(source + dim - 1).to(tl.float32), norm))
