"""Splices a selection into the inputs of the text model: dropped tokens are tagged first, and removed later.

A stock model checks that it has as many visual features as its prompt has placeholders. Dropped tokens therefore stay
among the features that its encoder returns (`splice_selection`), as *tagged* features: NaN in the first channel and
zero in all others. Tags pass through scattering, beam expansion and chunking, and are removed just before the text
model (`remove_dropped`). No computation produces this pattern by accident: any other NaN is an error.

Shape letters: B batch entries, Q positions in the inputs of the text model, M positions without dropped tokens, R
features of a video, D channels.
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
from .cache_state import CacheState, LayerPositions, Trace, UnprunedPositions

# --- features of the vision encoder -------------------------------------------------------------------------------


def splice_selection(features: Tensor, selection: Selection, family: Family, grid: Grid) -> Tensor:
    """Features ``(R, D)`` of a video with the values of the kept tokens, and all dropped ones tagged."""
    places = family.layout.grid_indices(grid)
    index = selection.indices if isinstance(places, slice) else places.to(features.device)[selection.indices]
    # The features may lack the newline after the video, which stock code appends later.
    kept = family.layout.kept_features(selection, grid)[: len(features)]
    return tag_dropped(features, kept, index, selection.features)


def tag_dropped(features: Tensor, kept: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """A copy of a video's features ``(R, D)`` with new values for kept tokens, and all dropped features tagged.

    Parameters
    ----------
    kept: ``(R,)`` bool, False for dropped features.
    index: ``(K,)`` int64, the features that get `values`; other kept features (newlines) are copied.
    values: ``(K, D)``.
    """
    tagged = features.masked_fill(~kept[:, None], 0)
    tagged[:, 0].masked_fill_(~kept, float("nan"))
    tagged[index] = values.to(features.dtype)
    return tagged


def find_tagged(embeds: Tensor) -> Tensor | None:
    """Mask ``(B, Q)`` bool of the tagged embeddings ``(B, Q, D)``, or None if there are none.

    Raises
    ------
    InputError: a NaN that is not a tag.
    """
    nan = embeds.isnan()
    tagged = tag_mask(embeds)
    genuine = nan.any(dim=-1) & ~tagged
    any_tagged, any_genuine = torch.stack([tagged.any(), genuine.any()]).tolist()
    if any_genuine:
        raise InputError("the model's input embeddings have NaN values: check its weights, its pixels and its dtype")
    return tagged if any_tagged else None


def tag_mask(features: Any) -> Any:
    """Mask ``(...)`` bool of tagged features ``(..., D)``; a list of masks for a list or a tuple of features."""
    if isinstance(features, Tensor):
        return features[..., 0].isnan() & (features[..., 1:] == 0).all(dim=-1)
    return [tag_mask(part) for part in features]


def restore_tags(features: Any, tagged: Any) -> Any:
    """A copy of features ``(..., D)``, in one tensor or several, with tags where the mask has them; see `tag_mask`.

    Raises
    ------
    ModelError: features of another layout than that of the mask.
    """
    if isinstance(features, Tensor) and isinstance(tagged, Tensor) and features.shape[:-1] == tagged.shape:
        tagged = tagged.to(features.device)
        changed = features.masked_fill(tagged[..., None], 0)
        changed[..., 0].masked_fill_(tagged, float("nan"))
        return changed
    if isinstance(features, (list, tuple)) and isinstance(tagged, list) and len(features) == len(tagged):
        return type(features)(restore_tags(*each) for each in zip(features, tagged, strict=True))
    raise ModelError("the model changed the layout of its visual features between the encoder and the text model")


def remove_tags(value: Any, width: int) -> Any:
    """The same value with zeros in place of tagged features; nothing is changed in place.

    Parameters
    ----------
    value: a tensor ``(..., D)``, also flattened (LLaVA-NeXT-Video in transformers 5.23), or an output, a list or a
        tuple of such; anything else is returned as it is.
    width: D.
    """
    if isinstance(value, Tensor):
        if not value.is_floating_point() or value.dim() < 1 or value.numel() % width or value.shape[-1] % width:
            return value
        features = value.reshape(-1, width)
        tagged = tag_mask(features)
        return features.masked_fill(tagged[..., None], 0).view(value.shape) if bool(tagged.any()) else value
    if isinstance(value, Mapping):
        changed = {name: clean for name, item in value.items() if (clean := remove_tags(item, width)) is not item}
        if not changed:
            return value
        value = copy(value)
        for name, clean in changed.items():
            value[name] = clean
        return value
    if type(value) in (list, tuple):
        parts = [remove_tags(item, width) for item in value]
        return value if all(map(operator.is_, parts, value)) else type(value)(parts)
    return value


# --- inputs of the text model -------------------------------------------------------------------------------------


class SplicedInputs(NamedTuple):
    """Inputs of the text model without dropped tokens.

    Parameters
    ----------
    embeds: ``(B, M, D)``.
    position_ids: ``(B, M)``, or ``(P, B, M)`` if ids of several axes were given.
    mask: ``(B, past + M)`` int64, or None if there is no padding.
    state: of the cache after this forward.
    source: ``(B, M)`` int64, the positions that were gathered; None if nothing was removed.
    valid: ``(B, M)`` bool, False for padding.
    kept: ``(B, Q)`` bool, the positions of the given inputs that were gathered.
    """

    embeds: Tensor
    position_ids: Tensor
    mask: Tensor | None
    state: CacheState
    source: Tensor | None
    valid: Tensor
    kept: Tensor


def remove_dropped(
    embeds: Tensor,
    attention_mask: Any,
    past: int,
    state: CacheState | None,
    tagged: Tensor | None,
    *,
    original: bool = False,
    mrope: bool = False,
    axis_ids: Tensor | None = None,
) -> SplicedInputs:
    """Remove the tagged embeddings from ``(B, Q, D)``, and assign positions to the others.

    Parameters
    ----------
    attention_mask: as the text model is given it, see `split_mask`.
    past: length of the cache.
    state: of the cache.
    tagged: ``(B, Q)`` bool, None if nothing was dropped in this forward.
    original: give kept tokens the position ids that they have in the unpruned prompt, instead of ids without gaps.
    mrope: whether the model has position ids of several axes.
    axis_ids: ``(P, B, Q)`` ids of several axes (M-RoPE of Qwen and GLM), which kept tokens keep. The first of four axes
        is the position in the text, which is counted anew without gaps. None to count all ids anew.
    """
    if state is not None:
        state.check_batch_size(embeds.shape[0])
    unpruned = None if state is None else state.unpruned
    new = embeds.shape[1]
    old_mask, new_mask = split_mask(attention_mask, past, embeds, None if unpruned is None else state)
    before = unpruned or UnprunedPositions.of_stock_cache(old_mask, mrope)
    next_ids = _next_ids(before, new_mask, axis_ids)
    index, kept, dropped, trace = None, new_mask, before.dropped, before.trace
    total = dropped
    if tagged is not None:
        dropped_so_far = before.dropped + (new_mask & tagged).long().cumsum(dim=1)
        kept = new_mask & ~tagged
        index, new_mask = pack_left_padded(kept)
        embeds = gather_embeds(embeds, index, new_mask)
        dropped, total = dropped_so_far.gather(1, index), dropped_so_far[:, -1:]
        kept_next_ids = None if next_ids is None else next_ids.gather(1, index)
        trace = before.full_trace(past).append(Trace(before.length + index, dropped, kept_next_ids))
    mask = torch.cat([old_mask, new_mask], dim=1)
    if state is not None and unpruned is not None and state.first.has_padding:
        has_padding = True
    elif unpruned is not None and tagged is None and attention_mask is None:
        has_padding = False
    else:
        has_padding = not bool(mask.all())
    first = LayerPositions(mask, has_padding)
    counted = first.last_position_ids(new_mask.shape[1])
    position_ids = counted + (dropped if original else 0) if axis_ids is None else _gather_ids(axis_ids, index, counted)
    last_id = None if next_ids is None else next_ids[:, -1:]
    layers = (first, *(() if state is None else state.layers[1:]))
    after = CacheState(layers, UnprunedPositions(before.length + new, total, last_id, trace))
    return SplicedInputs(embeds, position_ids, mask.long() if has_padding else None, after, index, new_mask, kept)


def split_mask(attention_mask: Any, past: int, embeds: Tensor, state: CacheState | None) -> tuple[Tensor, Tensor]:
    """Which cached and which new positions are no padding: ``(B, past)`` and ``(B, Q)`` bool.

    Parameters
    ----------
    attention_mask: as the text model is given it: None, or ``(B, n)`` over the unpruned positions.
    past: length of the cache.
    state: of a cache from which tokens were dropped, else None.

    Raises
    ------
    InputError: a prepared mask of four dimensions, which does not say where the dropped tokens are.
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
        return state.first.valid, new_mask
    return (mask if mask.shape[1] == past + new else ones)[:, :past], new_mask


def pack_left_padded(valid: Tensor) -> tuple[Tensor, Tensor]:
    """Indices that remove invalid positions, with padding on the left up to the longest entry.

    Parameters
    ----------
    valid: ``(B, Q)`` bool.

    Returns
    -------
    ``(B, M)`` int64 positions to gather, ascending, and ``(B, M)`` bool, False for padding. M >= 1 even if no position
    is valid.
    """
    longest = max(1, int(valid.sum(dim=1).max()))
    index = torch.argsort(valid.long(), dim=1, stable=True)[:, valid.shape[1] - longest :]
    return index, valid.gather(1, index)


def gather_embeds(embeds: Tensor, index: Tensor, valid: Tensor) -> Tensor:
    """Embeddings ``(B, M, D)`` out of ``(B, Q, D)``; padding is zero."""
    gathered = embeds.gather(1, index[..., None].expand(-1, -1, embeds.shape[-1]))
    return gathered.masked_fill(~valid[..., None], 0)


def gather_deepstack(visual: Tensor, layers: list[Tensor], spliced: SplicedInputs) -> tuple[Tensor, list[Tensor]]:
    """Features that are added to visual tokens after single layers (DeepStack), without the dropped ones.

    Parameters
    ----------
    visual: ``(B, Q)`` bool, True for visual positions.
    layers: ``(V, D)`` of each layer, one feature for each visual position, in order.

    Returns
    -------
    ``(B, M)`` bool and ``(V', D)`` of each layer.
    """
    assert spliced.source is not None
    kept = spliced.kept[visual]
    return visual.gather(1, spliced.source) & spliced.valid, [layer[kept.to(layer.device)] for layer in layers]


def _next_ids(before: UnprunedPositions, new_mask: Tensor, axis_ids: Tensor | None) -> Tensor | None:
    """The position id that would follow each new position and everything before it, ``(B, Q)``."""
    if before.next_id is None:
        return None
    if axis_ids is None:
        return before.next_id + new_mask.long().cumsum(dim=1)
    # The first of four axes only says where in the text a token is.
    highest = axis_ids.to(new_mask.device)[-3:].amax(dim=0).expand(new_mask.shape).masked_fill(~new_mask, -1)
    return torch.maximum(highest.cummax(dim=1).values + 1, before.next_id)


def _gather_ids(axis_ids: Tensor, index: Tensor | None, counted: Tensor) -> Tensor:
    """See `SplicedInputs.position_ids` and `remove_dropped`."""
    ids = axis_ids.to(counted.device).expand(-1, counted.shape[0], -1)
    if index is not None:
        ids = ids.gather(2, index.expand(ids.shape[0], -1, -1))
    return torch.cat([counted[None], ids[1:]]) if ids.shape[0] == 4 else ids
