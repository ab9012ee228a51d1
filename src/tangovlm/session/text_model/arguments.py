"""Arguments and output of the text model, for the shorter sequence that it reads.

Shape letters as in `session.splice`.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ...models.common.family import Family
from ...models.common.transformers_compat import Arg, Signature
from ..cache_state import CacheState, cached_length
from ..call_state import ForwardState
from ..splice import SplicedInputs, gather_deepstack

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""The positional and the keyword arguments of a call."""


def defer_masks(
    family: Family, signature: Signature, forward: ForwardState, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Call:
    """The call of the model without its head, without the mask, so that the text model makes those of its layers.

    The model would make them for positions that pruning changes. `forward` keeps the mask.
    """
    mask = signature.get(Arg.MASK, args, kwargs)
    if isinstance(mask, dict):
        # Made by `generate`, for text alone.
        return args, kwargs
    forward.defers_masks, forward.mask = True, mask
    forward.blocks = family.attention_blocks(signature.get(Arg.TOKEN_TYPES, args, kwargs))
    # Stock code passes a mapping on as it is.
    return signature.changed(args, kwargs, {Arg.MASK: {}})


def spliced_arguments(
    signature: Signature, spliced: SplicedInputs, original: bool, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """The arguments of the text model that dropped tokens change.

    Parameters
    ----------
    signature: of the text model.
    original: whether kept tokens have the position ids of the unpruned prompt.
    args, kwargs: of the call.
    """
    mask, source = spliced.mask, spliced.source
    if mask is None and signature.get(Arg.CACHE, args, kwargs) is None and original:
        # Without cache and mask, stock code takes gaps between position ids for the borders of packed prompts.
        mask = spliced.state.first.valid.long()
    changed: dict[str, Any] = {Arg.EMBEDS: spliced.embeds, Arg.MASK: mask, Arg.POSITIONS: spliced.position_ids}
    if source is None:
        return changed
    deepstack = signature.get(Arg.DEEP_FEATURES, args, kwargs)
    if deepstack is not None:
        visual, layers = gather_deepstack(signature.get(Arg.DEEP_PLACES, args, kwargs), deepstack, spliced)
        changed |= {Arg.DEEP_PLACES: visual, Arg.DEEP_FEATURES: layers}
    layer_inputs = signature.get(Arg.LAYER_INPUTS, args, kwargs)
    if layer_inputs is not None:
        entries = torch.arange(len(layer_inputs), device=layer_inputs.device)[:, None]
        changed[Arg.LAYER_INPUTS] = layer_inputs[entries, source.to(layer_inputs.device)]
    return changed


def with_blocks(
    family: Family,
    signature: Signature,
    blocks: Tensor,
    spliced: SplicedInputs | None,
    state: CacheState | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Call:
    """The call with masks of the layers, in which the visual tokens of a block attend to each other.

    Parameters
    ----------
    blocks: ``(B, n)`` of the unpruned sequence from its beginning, see `Family.attention_blocks`.
    state: of the cache.
    """
    names = (Arg.EMBEDS, Arg.MASK, Arg.CACHE, Arg.POSITIONS)
    embeds, mask, cache, position_ids = (signature.get(name, args, kwargs) for name in names)
    past = cached_length(cache, state)
    start = past if state is None or state.unpruned is None else state.unpruned.length
    length = embeds.shape[1] if spliced is None else spliced.kept.shape[1]
    new = blocks[:, start : start + length]
    # Candidates of assisted generation have no type.
    new = pad(new, (0, length - new.shape[1]), value=-1)
    if spliced is not None and spliced.source is not None:
        new = new.gather(1, spliced.source).masked_fill(~spliced.valid, -1)
    # New positions attend to all that are cached in any case, as they come after them.
    blocks = pad(new, (past, 0), value=-1)
    return signature.changed(args, kwargs, {Arg.MASK: family.layer_masks(embeds, mask, cache, position_ids, blocks)})


def without_other_logits(signature: Signature, output: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The output with those positions only that the text model was asked for, if it accepts such a number.

    Stock code would decide by the length of the prompt whether the text model has left the others out.
    """
    wanted = signature.get(Arg.LOGITS, args, kwargs) if Arg.LOGITS in signature.names else None
    if wanted is not None and isinstance(output, Mapping):
        index = slice(-wanted, None) if isinstance(wanted, int) else wanted
        output[Arg.STATES] = output[Arg.STATES][:, index]  # type: ignore[index] # outputs of stock models are mutable
    return output
