"""Padding between the turns of a batch, which recurrent layers cannot leave out."""

import pytest
import torch

from tangovlm.errors import InputError
from tangovlm.session.cache_state import LayerPositions
from tangovlm.session.lengths.padding import check_no_gap


def positions(*rows: list[int]) -> LayerPositions:
    valid = torch.tensor(rows, dtype=torch.bool)
    return LayerPositions(valid, has_padding=not bool(valid.all()))


@pytest.mark.parametrize(
    ("rows", "new"),
    [
        ([[1, 1, 1, 1], [1, 1, 1, 1]], 2),
        ([[0, 1, 1, 1], [1, 1, 1, 1]], 2),
        ([[0, 1, 1, 1], [1, 1, 1, 1]], 4),
        # Read in chunks: nothing but padding has been read of the first prompt.
        ([[0, 0, 0, 1], [1, 1, 1, 1]], 2),
        # A token that was generated.
        ([[0, 1, 1, 1], [1, 1, 1, 1]], 1),
    ],
)
def test_padding_on_the_left_is_no_gap(rows: list[list[int]], new: int) -> None:
    check_no_gap(positions(*rows), new, generated=True)


def test_padding_between_turns_is_refused() -> None:
    with pytest.raises(InputError, match="recurrent layers, .*: give all entries as many new tokens, .* one by one"):
        check_no_gap(positions([0, 1, 0, 1], [1, 1, 1, 1]), 2, generated=True)


def test_a_chunk_of_which_nothing_is_kept_is_refused() -> None:
    """The text model still reads one position, which is padding."""
    with pytest.raises(InputError, match="leave prefill_chunk_size out"):
        check_no_gap(positions([1, 1, 1, 0]), 1, generated=False)
