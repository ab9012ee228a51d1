"""What the kept tokens of a clip lie on, by the truth of the generator: why a method wins or loses."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tangovlm.tiny.synthetic.render import CELL, GRID
from tangovlm.tokens import Selection

from .task import View

_MIN_COVER = 0.25
"""Share of a cell that a decoy's square must fill for the cell to count as its."""


class Look(NamedTuple):
    """Of one question and one selection; all between 0 and 1.

    A cell counts as kept if it is the place of a slot. What was merged into another place does not count.
    """

    found: float
    """1 if every thing asked about keeps at least one cell, else 0."""
    cover: float
    """Share of the cells of the things asked about that are kept; of several things, the smallest share."""
    things: float
    """Share of the kept cells that lie on any thing."""
    decoys: float
    """Share of the kept cells that lie on a decoy and on no thing."""
    frames: float
    """Share of the frames that keep a cell."""


class Ground:
    """What lies where in a view, on a token grid of ``height`` x ``width``."""

    def __init__(self, view: View, height: int, width: int) -> None:
        rows, columns = np.arange(height) * GRID // height, np.arange(width) * GRID // width
        self.owners = view.owners[:, rows][:, :, columns]
        self.decoys = _decoys(view)[:, rows][:, :, columns] & (self.owners == 0)

    def look(self, selection: Selection, about: Sequence[int]) -> Look:
        """What a selection keeps, for a question about these things."""
        flat = np.zeros(self.owners.size, bool)
        flat[selection.indices.cpu().numpy()] = True
        kept = flat.reshape(self.owners.shape)
        shares = [_share(kept, self.owners == thing + 1) for thing in about]
        return Look(
            found=float(min(shares) > 0),
            cover=min(shares),
            things=_share(self.owners > 0, kept),
            decoys=_share(self.decoys, kept),
            frames=float(kept.any((1, 2)).mean()),
        )


def _share(part: NDArray[np.bool_], whole: NDArray[np.bool_]) -> float:
    """The share of `whole` that lies in `part`, in thousandths; 0 of nothing."""
    return round(float((part & whole).sum() / max(1, whole.sum())), 3)


def _decoys(view: View) -> NDArray[np.bool_]:
    """Cells (T, 8, 8) that the squares of decoys fill."""
    cells = np.zeros((len(view.times), GRID, GRID), bool)
    for frame, time in enumerate(view.times):
        for decoy in (decoy for scene in view.clip.scenes for decoy in scene.decoys if decoy.start <= time < decoy.end):
            x, y = decoy.at(time)
            cover = np.outer(_overlap(y, decoy.size), _overlap(x, decoy.size)) / CELL**2
            cells[frame] |= cover >= _MIN_COVER
    return cells


def _overlap(centre: float, size: int) -> NDArray[np.float64]:
    """Pixels along one axis that a square shares with each of the 8 cells."""
    start = np.arange(GRID) * CELL
    return np.clip(np.minimum(start + CELL, centre + size / 2) - np.maximum(start, centre - size / 2), 0, None)
