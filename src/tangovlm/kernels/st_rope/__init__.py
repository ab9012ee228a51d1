"""ST-RoPE (Tango paper, arXiv 2604.09547, Eq. 6-8) for the tokens asked for, fused with their normalisation."""

from torch import Tensor, float32

from ..dispatch import variant
from .pytorch import rotate_rows_torch, scaled_rows
from .tables import Rotation, Tables

__all__ = ["Rotation", "Tables", "rotate_rows", "scaled_rows"]


def rotate_rows(features: Tensor, index: Tensor, scale: Tensor, tables: Tables) -> Tensor:
    """Tokens ``features[index]``, each times its scale, rotated by its time and its place in the grid.

    Inside a block of d channels, channels k and k + d // 2 are rotated by the angle of column k of the block's table;
    an odd last channel is not rotated.

    Parameters
    ----------
    features: ``(N, D)``, any floating type, in raster order.
    index: ``(M,)`` int64.
    scale: ``(N,)`` float32 or float64; one over the norm gives rotated unit tokens.
    tables: in the type of ``scale``.

    Returns ``(M, D)`` in the type of ``scale``.
    """
    if scale.dtype == float32 and variant(features.device) == "triton":
        from .triton import rotate_rows_triton

        return rotate_rows_triton(features, index, scale, tables)
    return rotate_rows_torch(features, index, scale, tables)
