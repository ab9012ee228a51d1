"""The angles of ST-RoPE, separable: a table for time, rows and columns each, never of the size of the features."""

from dataclasses import dataclass

from torch import Tensor

Rotation = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Tables:
    """Cosines and sines for the tokens of a video in raster order.

    Parameters
    ----------
    shape: (T, H, W).
    time, row, column: (cos, sin), each ``(T, d_t // 2)``, ``(H, d_h // 2)`` and ``(W, d_w // 2)``; float32 or float64.
    sections: (d_t, d_h, d_w), channels of each block; they sum to D.
    """

    shape: tuple[int, int, int]
    time: Rotation
    row: Rotation
    column: Rotation
    sections: tuple[int, int, int]

    def blocks(self, index: Tensor) -> list[tuple[int, Tensor, Rotation]]:
        """(channels, place ``(M,)`` of each token in the table, table) of each block, for tokens ``index (M,)``."""
        _, height, width = self.shape
        places = (index // (height * width), index // width % height, index % width)
        return list(zip(self.sections, places, (self.time, self.row, self.column), strict=True))
