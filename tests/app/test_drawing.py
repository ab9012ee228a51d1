"""Layers over the frames, cell by cell."""

import numpy as np

from tangovlm.app import drawing


def test_cells() -> None:
    colours = np.array([(200, 100, 50), (10, 20, 30)], dtype=np.uint8)
    sources, kept = np.array([[0, 0], [-1, 1]]), np.array([[True, False], [False, True]])
    layer = drawing._cells(sources, kept, colours, (1, 2, 3, 4))
    size = drawing._CELL
    assert layer.shape == (2 * size, 2 * size, 4)
    # Outline and inside of kept tokens, a merged one, and a dropped one.
    for row, column, colour in ((0, 0, (200, 100, 50)), (size, size, (10, 20, 30))):
        assert (layer[row, column : column + size] == (*colour, 255)).all()
        assert not layer[row + 1 : row + size - 1, column + 1 : column + size - 1].any()
    assert (layer[:size, size:] == (120, 60, 30, 165)).all()
    assert (layer[size:, :size] == (1, 2, 3, 4)).all()
