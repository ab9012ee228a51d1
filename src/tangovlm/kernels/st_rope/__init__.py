"""ST-RoPE (Tango paper, arXiv 2604.09547, Eq. 6-8) for the tokens asked for, fused with their normalisation."""

from torch import Tensor, float32

from ..dispatch import variant
from .pytorch import rotate_rows_torch, unit_rows
from .tables import Rotation, Tables

__all__ = ["Rotation", "Tables", "rotate_rows", "unit_rows"]


def rotate_rows(features: Tensor, index: Tensor, norms: Tensor, tables: Tables) -> Tensor:
    """Tokens ``features[index]``, each divided by its norm and rotated by its time and its place in the grid.

    Inside a block of d channels, channels k and k + d // 2 are rotated by the angle of column k of the block's table;
    an odd last channel is not rotated.

    Parameters
    ----------
    features: ``(N, D)``, any floating type, in raster order.
    index: ``(M,)`` int64.
    norms: ``(N,)`` float32 or float64, never zero.
    tables: in the type of ``norms``.

    Returns ``(M, D)`` in the type of ``norms``.
    """
    if norms.dtype == float32 and variant(features.device) == "triton":
        from .triton import rotate_rows_triton

        return rotate_rows_triton(features, index, norms, tables)
    return rotate_rows_torch(features, index, norms, tables)
