"""Whether a prompt, its videos and the context of the text model fit each other."""

from collections.abc import Sequence

from torch import Tensor

from ..errors import InputError
from .base import Family
from .call import Clip
from .versions import encodes_first


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
    if family.placeholder in _image_tokens(family) or any(clip.handed_on is not None for clip in clips):
        return
    wanted = sum(family.rows(clip.grid) for clip in clips)
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


def refusal(family: Family, length: int, visual: float, kept: float, scale: float | None = 1.0) -> InputError:
    """The error for a prompt that is `too_long`, which proposes a retention that fits.

    Parameters
    ----------
    length: positions of the longest prompt, after pruning.
    visual, kept: visual tokens of it, before and after pruning.
    scale: what a method's retention is where all are kept before the model; None where it has no say there.
    """
    limit = _context(family)
    assert limit is not None
    # A hundredth of the context for the answer; thousandths downwards.
    room = limit - max(4, limit // 100) - (length - kept)
    fits = int(1000 * scale * room / visual) / 1000 if visual and scale else 0.0
    advice = f"give retention={fits} (or --retention {fits})" if fits > 0 else "give fewer frames"
    if scale is None:
        advice += ", or a method that prunes before the language model"
    after = " after pruning" if kept < visual else ""
    return InputError(f"the prompt has {length} tokens{after}, the model's context {limit}: {advice}")


def _context(family: Family) -> int | None:
    limit: int | None = getattr(family.decoder.config, "max_position_embeddings", None)
    return limit


def _image_tokens(family: Family) -> tuple[int | None, ...]:
    config = family.model.config
    return tuple(getattr(config, name, None) for name in ("image_token_index", "image_token_id"))
