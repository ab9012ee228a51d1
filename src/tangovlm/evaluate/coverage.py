"""What the kept tokens of a clip cover, by the ground truth of the generator: why a method wins or loses."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tangovlm.tiny.synthetic.render import CELL, GRID
from tangovlm.tokens import Selection

from .tangoworld import RenderedClip

_MIN_DECOY_SHARE = 0.25
"""Share of a cell that a decoy's square must fill for the cell to count as a cell of the decoy."""


class TokenCoverage(NamedTuple):
    """Coverage of one selection for one question; all values are between 0 and 1.

    A cell counts as kept if it is the position of a kept token. Cells merged into another position do not count.
    """

    found: float
    """1 if every object of the question keeps at least one cell, else 0."""
    cover: float
    """Share of the cells of the question's objects that are kept; with several objects, the smallest share."""
    things: float
    """Share of the kept cells that belong to any object."""
    decoys: float
    """Share of the kept cells that belong to a decoy and to no object."""
    frames: float
    """Share of the frames that keep a cell."""


class GroundTruth:
    """Objects and decoys of a rendered clip on a token grid of ``height`` x ``width``."""

    def __init__(self, clip: RenderedClip, height: int, width: int) -> None:
        rows, columns = np.arange(height) * GRID // height, np.arange(width) * GRID // width
        self.owners = clip.owners[:, rows][:, :, columns]
        self.decoys = _decoy_cells(clip)[:, rows][:, :, columns] & (self.owners == 0)

    def coverage(self, selection: Selection, about: Sequence[int]) -> TokenCoverage:
        """Coverage of a selection.

        Parameters
        ----------
        about: indices of the objects that the question is about.
        """
        flat = np.zeros(self.owners.size, bool)
        flat[selection.indices.cpu().numpy()] = True
        kept = flat.reshape(self.owners.shape)
        shares = [_share(kept, self.owners == thing + 1) for thing in about]
        return TokenCoverage(
            found=float(min(shares) > 0),
            cover=min(shares),
            things=_share(self.owners > 0, kept),
            decoys=_share(self.decoys, kept),
            frames=float(kept.any((1, 2)).mean()),
        )


def _share(part: NDArray[np.bool_], whole: NDArray[np.bool_]) -> float:
    """The share of `whole` that is in `part`, rounded to three decimals; 0 if `whole` is empty."""
    return round(float((part & whole).sum() / max(1, whole.sum())), 3)


def _decoy_cells(clip: RenderedClip) -> NDArray[np.bool_]:
    """Cells (T, 8, 8) that the squares of decoys fill."""
    cells = np.zeros((len(clip.moments), GRID, GRID), bool)
    for frame, time in enumerate(clip.moments):
        for decoy in (decoy for scene in clip.clip.scenes for decoy in scene.decoys if decoy.start <= time < decoy.end):
            x, y = decoy.at(time)
            share = np.outer(_overlap(y, decoy.size), _overlap(x, decoy.size)) / CELL**2
            cells[frame] |= share >= _MIN_DECOY_SHARE
    return cells


def _overlap(centre: float, size: int) -> NDArray[np.float64]:
    """Pixels along one axis that a square shares with each of the 8 cells."""
    start = np.arange(GRID) * CELL
    return np.clip(np.minimum(start + CELL, centre + size / 2) - np.maximum(start, centre - size / 2), 0, None)
