"""Whether a prompt, its videos and the context of the text model fit each other."""

from collections.abc import Sequence

from torch import Tensor

from ..errors import InputError
from ..models.common.family import Family
from ..models.common.layout import Clip, Grid
from ..models.common.transformers_compat import encodes_first


def check_placeholders(family: Family, input_ids: Tensor, clips: Sequence[Clip]) -> None:
    """See that whole prompts have a placeholder for every feature of their videos.

    Nothing is said where it cannot be told: the same placeholder stands for images too, or only some features are
    handed on.

    Parameters
    ----------
    input_ids: ``(B, Q)``, before prompts are copied for beams.
    clips: of the call.

    Raises
    ------
    InputError: other numbers of them.
    """
    if also_images(family) or any(clip.forwarded_mask is not None for clip in clips):
        return
    wanted = sum(family.feature_count(clip.grid) for clip in clips)
    found = int((input_ids == family.placeholder).sum())
    # Where copies are encoded too, there are a few times as many features.
    if found == wanted or (found and wanted % found == 0 and not encodes_first(family.model)):
        return
    raise InputError(
        f"the prompt has {found} video placeholders but its videos have {wanted} features: make input_ids and pixels "
        "with one call of the processor, of the same frames"
    )


def too_long(family: Family, length: int) -> bool:
    """Whether the text model was made for shorter prompts than one of `length` positions."""
    limit = _context(family)
    return limit is not None and length > limit


def refusal(
    family: Family, length: int, visual: float, kept: float, grids: Sequence[Grid], scale: float | None = 1.0
) -> InputError:
    """The error for a prompt that is `too_long`, which proposes a retention that fits.

    Parameters
    ----------
    length: positions of the longest prompt, after pruning.
    visual, kept: features of its videos, before and after pruning.
    grids: of the call's videos.
    scale: what a method's retention is where all are kept before the model; None where it has no say there.
    """
    limit = _context(family)
    assert limit is not None
    # A hundredth of the context for the answer; thousandths downwards.
    room = limit - max(4, limit // 100) - (length - kept)
    fits = 0.0
    if visual and scale and grids:
        # One video stands for all: they share the room in proportion.
        grid = grids[0]
        fits = (
            int(1000 * scale * family.tokens_within(room * family.feature_count(grid) / visual, grid) / grid.tokens)
            / 1000
        )
    advice = f"give retention={fits} (or --retention {fits})" if fits > 0 else "give fewer frames"
    if scale is None:
        advice += ", or a method that prunes before the language model"
    after = " after pruning" if kept < visual else ""
    return InputError(f"the prompt has {length} tokens{after}, the model's context {limit}: {advice}")


def _context(family: Family) -> int | None:
    limit: int | None = getattr(family.decoder.config, "max_position_embeddings", None)
    return limit


def also_images(family: Family) -> bool:
    """Whether images have the same placeholder as videos."""
    config = family.model.config
    return family.placeholder in (getattr(config, name, None) for name in ("image_token_index", "image_token_id"))
