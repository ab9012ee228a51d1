"""ST-RoPE (Tango paper, arXiv 2604.09547, Eq. 6-8) of selected tokens, fused with their normalization."""

from torch import Tensor, float32

from .. import variant
from .pytorch import Rotation, Tables, rotate_rows_torch, unit_rows

__all__ = ["Rotation", "Tables", "rotate_rows", "unit_rows"]


def rotate_rows(features: Tensor, index: Tensor, norms: Tensor, tables: Tables) -> Tensor:
    """Tokens ``features[index]``, each divided by its norm and rotated by its time and its position in the grid.

    In a block of d channels, channels k and k + d // 2 are rotated by the angle in column k of the block's table;
    an odd last channel is not rotated.

    Parameters
    ----------
    features: ``(N, D)``, any floating type, in raster order.
    index: ``(M,)`` int64.
    norms: ``(N,)`` float32 or float64, never zero.
    tables: in the dtype of ``norms``.

    Returns ``(M, D)`` in the dtype of ``norms``.
    """
    if norms.dtype == float32 and variant(features.device) == "triton":
        from .triton import rotate_rows_triton

        return rotate_rows_triton(features, index, norms, tables)
    return rotate_rows_torch(features, index, norms, tables)
