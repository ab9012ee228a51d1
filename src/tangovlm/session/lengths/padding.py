"""Padding that the text model cannot leave out."""

from ...errors import InputError
from ..cache_state import LayerPositions


def check_no_gap(positions: LayerPositions, new: int) -> None:
    """Raise `InputError` if there is padding between tokens, which leaves traces in the state of recurrent layers.

    Parameters
    ----------
    positions: in the cache after a forward.
    new: number of the last of them, which the forward reads; their padding is on the left.
    """
    # A token that was generated is no padding, and asking the device would cost a synchronization for each.
    if new == 1 or not positions.has_padding:
        return
    old, added = positions.valid[:, :-new], positions.valid[:, -new:]
    if bool((old.any(dim=1) & ~added.all(dim=1)).any()):
        raise InputError(
            "the text model has recurrent layers, which cannot skip padding between earlier turns and a shorter turn "
            "of a batch: give all entries as many new tokens, or continue their conversations one by one"
        )
