"""Attention sinks, grid positions to which an encoder attends whatever the picture shows: known ones, and measurement.

Shape letters: F frames of all clips, H, W rows and columns of the grid, L tokens of a frame.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import InputError

SINK_THRESHOLD = 0.9
"""A position above it is among the tenth of a frame with the highest saliency, in all but unusual frames. By default
methods keep a tenth, so it would replace a token with information about the picture."""


@dataclass(frozen=True)
class ReleasedSinks:
    """A list of positions that the authors' release masks, for SigLIP-so400m/14 at 384 px.

    Parameters
    ----------
    family: of the model.
    grid: rows and columns.
    positions: ``row * columns + column``, in the order of the release.
    source: address in the release.
    """

    family: str
    grid: tuple[int, int]
    positions: tuple[int, ...]
    source: str


_RELEASE = "https://github.com/xjtupanda/Tango/blob/cc815b6"

RELEASED: tuple[ReleasedSinks, ...] = (
    ReleasedSinks("llava-onevision", (14, 14), (28, 27, 41, 169, 11, 12), f"{_RELEASE}/tango/prune_config.py"),
    ReleasedSinks("llava-video", (13, 13), (26, 157, 11), f"{_RELEASE}/VLMEvalKit/vlmeval/vlm/llava/llava.py"),
)


def released_for_grid(height: int, width: int) -> ReleasedSinks | None:
    """The released list for a grid of this size; None if there is none."""
    return next((entry for entry in RELEASED if entry.grid == (height, width)), None)


def sinks_for_grid(height: int, width: int) -> tuple[int, ...] | None:
    """Positions ``h * width + w`` to mask on a grid of this size, or None if unmeasured."""
    entry = released_for_grid(height, width)
    return None if entry is None else entry.positions


def frame_ranks(saliency_FL: Tensor) -> Tensor:
    """Twice the rank of each token among those of its frame: ``(F, L)`` int64, 0 the lowest, 2 (L - 1) the highest.

    Equal tokens share the mean of their ranks, of which the double is an integer: ties do not depend on the index.
    """
    ordered = saliency_FL.sort(dim=1).values.contiguous()
    values = saliency_FL.contiguous()
    below = torch.searchsorted(ordered, values, right=False)
    up_to = torch.searchsorted(ordered, values, right=True)
    return below + up_to - 1


class SinkRanks:
    """Mean and standard deviation of the rank of every grid position, over all frames that were added.

    A frame's tokens are ranked by saliency from 0, the lowest, to 1, the highest. A position whose rank is high in
    every frame of many different clips is a sink: see `sinks`. (Tango paper, arXiv 2604.09547, appendix B.3: mean and
    standard deviation of the rank.) Sums are integers, so that the result depends neither on the order of the clips nor
    on how they are divided into calls.
    """

    def __init__(self) -> None:
        self.frames = 0
        self._grid: tuple[int, int] | None = None
        self._sum = self._squares = torch.zeros(0, dtype=torch.int64)

    def add(self, saliency: Tensor) -> None:
        """Rank the tokens of further frames.

        Parameters
        ----------
        saliency: ``(T, H, W)`` floating, finite, any scale.

        Raises
        ------
        InputError: another shape, another grid than before, a single token a frame, NaN or infinite values.
        """
        if saliency.dim() != 3 or saliency.shape[0] == 0:
            raise InputError(f"saliency must be (T, H, W) with at least one frame, not {tuple(saliency.shape)}")
        grid = (saliency.shape[1], saliency.shape[2])
        if grid[0] * grid[1] < 2:
            raise InputError(f"a grid of {grid[0]} x {grid[1]} tokens has nothing to rank: use another model")
        if not bool(saliency.isfinite().all()):
            raise InputError("the saliency has NaN or infinite values: check the model's weights and its dtype")
        if self._grid not in (None, grid):
            raise InputError(
                f"the grid is {grid[0]} x {grid[1]} tokens here and {self.height} x {self.width} before: "
                "sinks are positions on one grid, so measure clips of one shape at a time"
            )
        ranks = frame_ranks(saliency.detach().cpu().flatten(1))
        if self._grid is None:
            self._grid = grid
            self._sum, self._squares = torch.zeros(2, ranks.shape[1], dtype=torch.int64)
        self.frames += len(ranks)
        self._sum = self._sum + ranks.sum(dim=0)
        self._squares = self._squares + ranks.square().sum(dim=0)

    @property
    def grid(self) -> tuple[int, int]:
        """H and W.

        Raises
        ------
        InputError: no frame was added.
        """
        if self._grid is None:
            raise InputError("no frame was ranked: add the saliency of a clip first")
        return self._grid

    @property
    def height(self) -> int:
        """H, rows of the grid."""
        return self.grid[0]

    @property
    def width(self) -> int:
        """W, columns of the grid."""
        return self.grid[1]

    @property
    def mean(self) -> Tensor:
        """``(L,)`` float64 in [0, 1]; 0.5 is the mean over all positions."""
        return self._sum.double() / (self.frames * self._top)

    @property
    def sd(self) -> Tensor:
        """``(L,)`` float64, of the frames that were added (divided by F, not F - 1)."""
        variance = self.frames * self._squares - self._sum.square()
        return variance.double().sqrt() / (self.frames * self._top)

    @property
    def floor(self) -> Tensor:
        """``(L,)`` float64: mean minus one standard deviation; the rank of a position is rarely lower."""
        return self.mean - self.sd

    def order(self) -> list[int]:
        """All positions by `floor`, highest first; ties go to the lowest position."""
        positions: list[int] = self.floor.sort(descending=True, stable=True).indices.tolist()
        return positions

    def sinks(self, threshold: float = SINK_THRESHOLD) -> tuple[int, ...]:
        """Positions whose `floor` is at least the threshold, in the order of `order`.

        Raises
        ------
        InputError: see `check_threshold`.
        """
        check_threshold(threshold)
        floor = self.floor.tolist()
        return tuple(position for position in self.order() if floor[position] >= threshold)

    @property
    def _top(self) -> int:
        """The highest of the doubled ranks."""
        return 2 * (self.height * self.width - 1)


def check_threshold(threshold: float, name: str = "threshold") -> None:
    """Raise `InputError` unless it is in [0.5, 1]: below, positions of average rank would be sinks."""
    if not 0.5 <= threshold <= 1:
        raise InputError(f"{name} is {threshold:g}: it must be in [0.5, 1] (0.5 is the mean rank, 1 the highest)")
