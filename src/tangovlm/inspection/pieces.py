"""Clusters of tokens, and the connected pieces that they consist of.

Shape letters: T steps of the token grid, H, W its rows and columns.
"""

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def cluster_slots(slots: Ints, positions: Ints) -> Ints:
    """The slots with tokens of at least two positions, ascending."""
    kept = slots >= 0
    pairs = np.unique(np.stack([slots[kept], positions[kept]]), axis=1)[0]
    found, counts = np.unique(pairs, return_counts=True)
    clusters: Ints = found[counts > 1]
    return clusters


def piece_of_token(slots: Ints) -> Ints:
    """``(T, H, W)``: the lowest grid index of the connected tokens with the same slot as each token."""
    pieces: Ints = np.arange(slots.size).reshape(slots.shape)
    while True:
        before = pieces.copy()
        for axis in range(3):
            one = tuple(slice(None, -1) if each == axis else slice(None) for each in range(3))
            other = tuple(slice(1, None) if each == axis else slice(None) for each in range(3))
            same = slots[one] == slots[other]
            lower = np.minimum(pieces[one], pieces[other])
            pieces[one] = np.where(same, lower, pieces[one])
            lower = np.minimum(pieces[one], pieces[other])
            pieces[other] = np.where(same, lower, pieces[other])
        if np.array_equal(before, pieces):
            return pieces
