"""Padding that the text model cannot leave out."""

from ...errors import InputError
from ..cache_state import LayerPositions


def check_no_gap(positions: LayerPositions, new: int, *, generated: bool) -> None:
    """Raise `InputError` if there is padding between tokens, which leaves traces in the state of recurrent layers.

    Parameters
    ----------
    positions: in the cache after a forward.
    new: number of the last of them, which the forward reads; their padding is on the left.
    generated: whether nothing was dropped, so that a single token is one that was generated.
    """
    # A token that was generated is no padding, and asking the device would cost a synchronization for each. Where all
    # tokens of a forward were dropped, a single one remains, which is padding.
    if (new == 1 and generated) or not positions.has_padding:
        return
    old, added = positions.valid[:, :-new], positions.valid[:, -new:]
    if bool((old.any(dim=1) & ~added.all(dim=1)).any()):
        raise InputError(
            "the text model has recurrent layers, which cannot skip padding between earlier tokens and the new ones of "
            "a shorter turn of a batch or of a chunk of the prompt: give all entries as many new tokens, continue "
            "their conversations one by one, or leave prefill_chunk_size out"
        )
