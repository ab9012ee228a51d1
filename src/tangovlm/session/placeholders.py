"""The placeholders of a prompt: whether they fit its videos, and which video is whose."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..errors import InputError
from ..models.common.family import Family
from ..models.common.layout import Clip, Grid, Prompt
from ..models.common.transformers_compat import Arg, copies_prompts, encodes_first


def encoder_clips(family: Family, inputs: Mapping[str, Any], timestamps: Tensor) -> list[Clip]:
    """The videos that a call of `generate` will encode, known before that.

    Parameters
    ----------
    inputs: arguments of `generate`, with whole prompts.
    timestamps: ``(T,)`` seconds of the frames of its one video.
    """
    # 5.17 has another name for the pixels in the signature of some encoders, see `pixels_name`.
    names = {*inspect.signature(getattr(family.encoder, family.feature_method)).parameters, Arg.VIDEO_PIXELS}
    given = {name: inputs[name] for name in names if name in inputs}
    return family.layout.clips(Prompt(inputs[Arg.IDS], (timestamps.numel(),)), **given)


def check_placeholders(family: Family, input_ids: Tensor, clips: Sequence[Clip]) -> None:
    """Check that whole prompts have a placeholder for every feature of their videos.

    Nothing is checked where images have the same placeholder, or only some features are forwarded.

    Parameters
    ----------
    input_ids: ``(B, Q)``, before prompts are copied for beams.
    clips: of the call.

    Raises
    ------
    InputError: the two numbers differ.
    """
    if has_image_placeholder(family) or any(clip.forwarded_mask is not None for clip in clips):
        return
    features = sum(family.layout.feature_count(clip.grid) for clip in clips)
    placeholders = int((input_ids == family.layout.placeholder).sum())
    # Where copies are encoded too, there are several times as many features.
    if placeholders == features or (placeholders and features % placeholders == 0 and not encodes_first(family.model)):
        return
    raise InputError(
        f"the prompt has {placeholders} video placeholders but its videos have {features} features: make input_ids and "
        "pixels with one call of the processor, from the same frames"
    )


def has_image_placeholder(family: Family) -> bool:
    """Whether images have the same placeholder as videos."""
    config = family.model.config
    image_tokens = (getattr(config, name, None) for name in ("image_token_index", "image_token_id"))
    return family.layout.placeholder in image_tokens


def match_copies(family: Family, input_ids: Tensor | None, grids: Sequence[Grid], videos: int) -> list[int]:
    """The index of each encoded video among the videos of a call.

    Stock code of some releases encodes copies of a video for each beam or returned sequence.

    Parameters
    ----------
    input_ids: ``(B, Q)`` prompts before they were copied.
    grids: of all encoded videos, in order.
    videos: number of videos before they were copied.

    Returns
    -------
    One index for each encoded video; ``[0, ..., videos - 1]`` if they cannot be matched.
    """
    copies, remainder = divmod(len(grids), videos)
    groups = _videos_per_prompt(family, input_ids, grids, copies) if copies_prompts(family.model) else [1] * videos
    if remainder or sum(groups) != videos:
        return list(range(videos))
    indices, start = [], 0
    for count in groups:
        indices += list(range(start, start + count)) * copies
        start += count
    return indices


def _videos_per_prompt(family: Family, input_ids: Tensor | None, grids: Sequence[Grid], copies: int) -> list[int]:
    """Number of videos of each prompt, where the videos of a prompt are copied together."""
    if input_ids is None:
        return []
    groups, first = [], 0
    for placeholders in (input_ids == family.layout.placeholder).sum(dim=1).tolist():
        last, features = first, 0
        while features < placeholders and last < len(grids):
            features += family.layout.feature_count(grids[last])
            last += 1
        groups.append(last - first)
        first += copies * (last - first)
    return groups
