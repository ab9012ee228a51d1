"""Dropped tokens on their way from the vision features to the text model: marked there, taken out here.

A model checks that it gets as many visual features as its prompt has placeholders. So dropped tokens stay in the
features as *tagged* rows, pass through scattering, beam expansion and chunking, and are taken out in front of the
text model.

A tagged row is NaN in its first channel and zero in all others, a pattern that no computation gives by accident: any
other row with a NaN is a fault of the model and raises.

Shape letters: B rows of a batch, Q positions handed to the text model, M positions left of them, R features, D
channels.
"""

import operator
from collections.abc import Mapping
from copy import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import InputError, ModelError
from ..models.common.family import Family
from ..models.common.layout import Grid
from ..tokens import Selection
from .cache_state import Seen, Trace, untouched
from .carried import check_rows

POSITIONS: tuple[str, ...] = ("contiguous", "original")


def tag_dropped(rows: Tensor, kept: Tensor, places: Tensor, values: Tensor) -> Tensor:
    """Features of a video with the kept values at their places and all that is dropped tagged.

    Parameters
    ----------
    rows: ``(R, D)``.
    kept: ``(R,)`` bool, which of them the text model gets.
    places: ``(K,)`` int64, where `values` go; places that are kept otherwise (newlines) stay as they are.
    values: ``(K, D)``.

    Returns
    -------
    ``(R, D)``, a new tensor.
    """
    tagged = rows.masked_fill(~kept[:, None], 0)
    tagged[:, 0].masked_fill_(~kept, float("nan"))
    tagged[places] = values.to(rows.dtype)
    return tagged


def with_selection(features: Tensor, selection: Selection, family: Family, grid: Grid) -> Tensor:
    """Features ``(R, D)`` of a video with a selection in them and what is dropped tagged, see `tag_dropped`."""
    places = family.grid_indices(grid)
    at = selection.indices if isinstance(places, slice) else places.to(features.device)[selection.indices]
    # A newline that stock code adds behind the features has no row here.
    kept = family.kept_features(selection, grid)[: len(features)]
    return tag_dropped(features, kept, at, selection.features)


def find_tagged(embeds: Tensor) -> Tensor | None:
    """Which of the embeddings ``(B, Q, D)`` are tagged: ``(B, Q)`` bool, or None if there are none.

    Raises
    ------
    InputError: a NaN that is not a tag.
    """
    nan = embeds.isnan()
    tagged = tags(embeds)
    genuine = nan.any(dim=-1) & ~tagged
    found, faulty = torch.stack([tagged.any(), genuine.any()]).tolist()
    if faulty:
        raise InputError("the model's input embeddings have NaN values: check its weights, its pixels and its dtype")
    return tagged if found else None


def tags(features: Any) -> Any:
    """Which rows are tagged: ``(...)`` bool for features ``(..., D)``, or a list of such for a list or a tuple."""
    if isinstance(features, Tensor):
        return features[..., 0].isnan() & (features[..., 1:] == 0).all(dim=-1)
    return [tags(part) for part in features]


def with_tags(features: Any, tagged: Any) -> Any:
    """Features ``(..., D)``, in one tensor or several, with rows tagged; see `tags`. None is changed in place.

    Raises
    ------
    ModelError: other features than those that `tagged` belongs to.
    """
    if isinstance(features, Tensor) and isinstance(tagged, Tensor) and features.shape[:-1] == tagged.shape:
        tagged = tagged.to(features.device)
        changed = features.masked_fill(tagged[..., None], 0)
        changed[..., 0].masked_fill_(tagged, float("nan"))
        return changed
    if isinstance(features, (list, tuple)) and isinstance(tagged, list) and len(features) == len(tagged):
        return type(features)(with_tags(*each) for each in zip(features, tagged, strict=True))
    raise ModelError("the model changed the layout of its visual features on their way to the text model")


def cleaned(value: Any, width: int) -> Any:
    """The same without tags: rows of dropped tokens are zero. Nothing is changed in place.

    Parameters
    ----------
    value: a tensor ``(..., D)``, also flat (LLaVA-NeXT-Video of 5.23), or an output, a list or a tuple of such;
        anything else stays as it is.
    width: D.
    """
    if isinstance(value, Tensor):
        if not value.is_floating_point() or value.dim() < 1 or value.numel() % width or value.shape[-1] % width:
            return value
        rows = value.reshape(-1, width)
        tagged = tags(rows)
        return rows.masked_fill(tagged[..., None], 0).view(value.shape) if bool(tagged.any()) else value
    if isinstance(value, Mapping):
        changed = {name: clean for name, item in value.items() if (clean := cleaned(item, width)) is not item}
        if not changed:
            return value
        value = copy(value)
        for name, clean in changed.items():
            value[name] = clean
        return value
    if type(value) in (list, tuple):
        parts = [cleaned(item, width) for item in value]
        return value if all(map(operator.is_, parts, value)) else type(value)(parts)
    return value


def compact(valid: Tensor) -> tuple[Tensor, Tensor]:
    """Take out invalid positions, rows padded on the left to the longest.

    Parameters
    ----------
    valid: ``(B, Q)`` bool.

    Returns
    -------
    ``(B, M)`` int64 positions to gather, in order, and ``(B, M)`` bool, which of them are valid. M >= 1 even if none
    is.
    """
    longest = max(1, int(valid.sum(dim=1).max()))
    index = torch.argsort(valid.long(), dim=1, stable=True)[:, valid.shape[1] - longest :]
    return index, valid.gather(1, index)


def gather_embeds(embeds: Tensor, index: Tensor, valid: Tensor) -> Tensor:
    """Rows ``(B, M, D)`` of embeddings ``(B, Q, D)``; padding is zero."""
    gathered = embeds.gather(1, index[..., None].expand(-1, -1, embeds.shape[-1]))
    return gathered.masked_fill(~valid[..., None], 0)


def positions(mask: Tensor, new: int) -> Tensor:
    """Positions ``(B, new)`` of the last `new` places of a mask ``(B, n)``: how many valid places are before each."""
    return (mask.long().cumsum(dim=1) - 1).clamp_min(0)[:, -new:]


def split_mask(attention_mask: Any, past: int, embeds: Tensor, state: Seen | None) -> tuple[Tensor, Tensor]:
    """Which cached and which new positions are no padding: ``(B, past)`` and ``(B, Q)`` bool.

    Parameters
    ----------
    attention_mask: what the text model was handed: None or ``(B, n)`` over the unpruned positions.
    past: length of the cache.

    Raises
    ------
    InputError: a prepared mask of four dimensions, in which the places of the dropped tokens cannot be told.
    """
    batch, new = embeds.shape[:2]
    ones = torch.ones(batch, past + new, dtype=torch.bool, device=embeds.device)
    mask = ones
    if attention_mask is not None:
        if not isinstance(attention_mask, Tensor) or attention_mask.dim() != 2:
            raise InputError(
                "pruning needs the 2-D attention_mask (batch, positions): pass it instead of a prepared mask"
            )
        mask = attention_mask.to(embeds.device, torch.bool)
    new_mask = mask[:, -new:]
    if state is not None:
        return state.mask, new_mask
    return (mask if mask.shape[1] == past + new else ones)[:, :past], new_mask


class Advance(NamedTuple):
    """What the text model gets in place of what it was handed, and what to remember.

    Parameters
    ----------
    embeds: ``(B, M, D)``.
    position_ids: ``(B, M)``, or ``(P, B, M)`` where positions of several rows were handed on.
    mask: ``(B, past + M)`` int64, or None where nothing is padded.
    state: to leave on the cache.
    places: ``(B, M)`` what was gathered, None where nothing was taken out.
    valid: ``(B, M)`` bool, which of them are no padding.
    kept: ``(B, Q)`` bool, which of the positions that came were gathered.
    """

    embeds: Tensor
    position_ids: Tensor
    mask: Tensor | None
    state: Seen
    places: Tensor | None
    valid: Tensor
    kept: Tensor


def advance(
    embeds: Tensor,
    attention_mask: Any,
    past: int,
    state: Seen | None,
    tagged: Tensor | None,
    *,
    original: bool = False,
    several: bool = False,
    rows: Tensor | None = None,
) -> Advance:
    """Take the tagged rows out of the embeddings ``(B, Q, D)`` and tell the others their positions.

    Parameters
    ----------
    attention_mask: what the text model was handed, see `split_mask`.
    past: length of the cache.
    original: give the kept tokens the position ids that they have in the unpruned prompt, in place of ids without gaps.
    several: whether the model has position ids of several rows.
    rows: ``(P, B, Q)`` such ids, of which the kept tokens keep theirs; the first of four is the place in the text,
        which has no gaps. None for counted ones.
    """
    if state is not None:
        check_rows(state, embeds.shape[0])
    old_mask, new_mask = split_mask(attention_mask, past, embeds, state)
    known = state or untouched(old_mask, several)
    unpruned = known.unpruned + embeds.shape[1]
    index, kept, before, trace = None, new_mask, known.skipped, known.trace
    following = _following(known, new_mask, rows)
    if tagged is not None:
        dropped = known.skipped + (new_mask & tagged).long().cumsum(dim=1)
        kept = new_mask & ~tagged
        index, new_mask = compact(kept)
        embeds = gather_embeds(embeds, index, new_mask)
        before = dropped.gather(1, index)
        behind = None if following is None else following.gather(1, index)
        trace = known.traced().then(Trace(known.unpruned + index, before, behind))
    mask = torch.cat([old_mask, new_mask], dim=1)
    counted = positions(mask, new_mask.shape[1])
    position_ids = counted + (before if original else 0) if rows is None else _kept_positions(rows, index, counted)
    if state is not None and state.padded:
        padded = True
    elif state is not None and tagged is None and attention_mask is None:
        padded = False
    else:
        padded = not bool(mask.all())
    skipped = known.skipped if tagged is None else dropped[:, -1:]
    last = None if following is None else following[:, -1:]
    new = Seen(mask, unpruned, padded, skipped, last, trace)
    return Advance(embeds, position_ids, mask.long() if padded else None, new, index, new_mask, kept)


def _following(known: Seen, new_mask: Tensor, rows: Tensor | None) -> Tensor | None:
    """The position id behind each of the positions that came and all in front of it, ``(B, Q)``."""
    if known.following is None:
        return None
    if rows is None:
        return known.following + new_mask.long().cumsum(dim=1)
    # The first of four rows only says where in the text a token is.
    highest = rows.to(new_mask.device)[-3:].amax(dim=0).expand(new_mask.shape).masked_fill(~new_mask, -1)
    return torch.maximum(highest.cummax(dim=1).values + 1, known.following)


def _kept_positions(rows: Tensor, index: Tensor | None, counted: Tensor) -> Tensor:
    """See `Advance.position_ids` and `advance`."""
    rows = rows.to(counted.device).expand(-1, counted.shape[0], -1)
    if index is not None:
        rows = rows.gather(2, index.expand(rows.shape[0], -1, -1))
    return torch.cat([counted[None], rows[1:]]) if rows.shape[0] == 4 else rows


def gather_layers(visual: Tensor, layers: list[Tensor], step: Advance) -> tuple[Tensor, list[Tensor]]:
    """What is added to the visual tokens behind single layers (DeepStack), without the dropped ones.

    Parameters
    ----------
    visual: ``(B, Q)`` bool, which positions are visual.
    layers: ``(V, D)`` of each layer, one row a visual position, in order.

    Returns
    -------
    ``(B, M)`` bool and ``(V', D)`` of each layer.
    """
    assert step.places is not None
    left = step.kept[visual]
    return visual.gather(1, step.places) & step.valid, [layer[left.to(layer.device)] for layer in layers]
