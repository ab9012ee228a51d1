"""Copies of videos, which stock code of some releases encodes anew for every beam or returned sequence."""

from collections.abc import Sequence

from torch import Tensor

from ..models.common.family import Family
from ..models.common.layout import Grid
from ..models.common.transformers_compat import copies_prompts


def order(family: Family, input_ids: Tensor | None, grids: Sequence[Grid], videos: int) -> list[int]:
    """Which video of a call each encoded one is.

    Parameters
    ----------
    input_ids: ``(B, Q)`` prompts before they were copied.
    grids: of all that is encoded, in order.
    videos: before they were copied.

    Returns
    -------
    One number an encoded video; those of the videos once where their copies cannot be told.
    """
    copies, rest = divmod(len(grids), videos)
    groups = _groups(family, input_ids, grids, copies) if copies_prompts(family.model) else [1] * videos
    if rest or sum(groups) != videos:
        return list(range(videos))
    result, start = [], 0
    for count in groups:
        result += list(range(start, start + count)) * copies
        start += count
    return result


def _groups(family: Family, input_ids: Tensor | None, grids: Sequence[Grid], copies: int) -> list[int]:
    """Videos of each prompt, where the videos of a prompt are copied together."""
    if input_ids is None:
        return []
    groups, first = [], 0
    for count in (input_ids == family.placeholder).sum(dim=1).tolist():
        last, rows = first, 0
        while rows < count and last < len(grids):
            rows += family.feature_count(grids[last])
            last += 1
        groups.append(last - first)
        first += copies * (last - first)
    return groups
