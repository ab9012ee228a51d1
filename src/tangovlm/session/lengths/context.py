"""Whether prompts fit the model's context after pruning, and what to change if they do not."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from ...errors import InputError
from ...methods.build import Plan
from ...methods.in_llm.common.first_pass import FirstPassMethod
from ...models.common.family import Family
from ...models.common.layout import TEXT, Clip, Grid
from .kept import group_sizes, is_known, kept_of


class PromptSize(NamedTuple):
    """One prompt of a call.

    Parameters
    ----------
    length: positions before pruning, without padding.
    grids: of its videos.
    marks: text tokens between the features of its video, such as the times of frames; 0 for several videos.
    """

    length: int
    grids: Sequence[Grid]
    marks: int


def context_length(family: Family) -> int | None:
    """Positions in the context of the text model; None if its config does not say."""
    limit: int | None = getattr(family.decoder.config, "max_position_embeddings", None)
    return limit


def is_too_long(family: Family, length: int) -> bool:
    """Whether a prompt of `length` positions exceeds the context of the text model."""
    limit = context_length(family)
    return limit is not None and length > limit


def check_lengths(
    family: Family, plan: Plan, newlines: str, ids: Tensor, mask: Tensor | None, clips: Sequence[Clip]
) -> None:
    """Check that prompts with videos fit the model's context, before the videos are encoded.

    Nothing is refused that may fit: where the content of a video decides how many tokens or newlines are kept, the
    smallest number counts here, and the text model's forward checks the length again.

    Parameters
    ----------
    newlines: see `tangovlm.attach`.
    ids: ``(B, Q)`` whole prompts.
    mask: ``(B, Q)`` their attention mask; None if unknown.
    clips: the videos of the call.

    Raises
    ------
    InputError: a prompt is too long.
    """
    if not clips or not is_too_long(family, ids.shape[1]):
        return
    sizes, method = _prompt_sizes(family, ids, mask, clips), plan.inside
    if plan.before is None and not isinstance(method, FirstPassMethod):
        # With pruning inside the model, the first layers still read the whole prompt.
        scale = 1.0 if method is None else None
        if sizes is None:
            grids = [clip.grid for clip in clips]
            placeholders = int((ids == family.layout.placeholder).sum(dim=1).max())
            visual = min(placeholders, _features(family, grids))
            raise too_long_error(family, ids.shape[1], visual, visual, grids, scale)
        longest = max(sizes, key=lambda size: size.length)._replace(length=ids.shape[1])
        raise _error(family, plan, newlines, longest, scale)
    for size in sizes or ():
        first = method if isinstance(method, FirstPassMethod) and _has_first_pass(method, size) else None
        if first is not None and len(size.grids) > 1:
            # Refused for another reason.
            continue
        text = size.length - _features(family, size.grids)
        if first is not None and (tokens := _group_beyond(family, first, text, size.grids[0])):
            raise group_error(first, tokens)
        kept = [kept_of(plan, newlines, family.layout, grid).features.least for grid in size.grids]
        if is_too_long(family, text + sum(kept)):
            scale = None
            if plan.before is not None:
                scale = plan.retention / plan.before.retention
            elif first is not None and first.absolute_count is None:
                scale = 1.0
            raise _error(family, plan, newlines, size, scale)


def too_long_error(
    family: Family,
    length: int,
    visual: float,
    kept: float,
    grids: Sequence[Grid],
    scale: float | None = 1.0,
    *,
    frames: int | None = None,
    is_least: bool = False,
) -> InputError:
    """The error for a prompt that `is_too_long`, which proposes a retention or a number of frames that fits.

    Parameters
    ----------
    length: positions of the longest prompt, after pruning.
    visual, kept: features of its videos, before and after pruning.
    grids: of the call's videos.
    scale: the retention of the method divided by the fraction that it keeps before the language model; None if the
        method does not prune there.
    frames: number of frames of each video that fits; None if unknown, 0 if none does.
    is_least: whether `length` is the least that may remain.
    """
    limit = context_length(family)
    assert limit is not None
    room = limit - _for_answer(limit) - (length - kept)
    fits = 0.0
    if visual and scale and grids:
        # One video stands for all: they share the room in proportion.
        grid, layout = grids[0], family.layout
        left = layout.tokens_within(room * layout.feature_count(grid) / visual, grid)
        # The retention is rounded down to thousandths.
        fits = int(1000 * scale * left / grid.tokens) / 1000
    advice = [f"retention={fits} (or --retention {fits})"] if fits > 0 else []
    if frames:
        advice.append(f"at most {frames} frame{'s' * (frames > 1)} of this size")
    elif not advice:
        shorter = "a shorter text" if room <= 0 else "smaller frames"
        advice.append("fewer frames" if frames is None else shorter)
    if scale is None and room > 0:
        advice.append("a method that prunes before the language model")
    after = " after pruning" if kept < visual else ""
    least = "at least " if is_least else ""
    return InputError(
        f"the prompt has {least}{length} tokens{after}, the model's context {limit}: give {', or '.join(advice)}"
    )


def group_error(method: FirstPassMethod, tokens: int) -> InputError:
    """The error for a group of visual tokens that does not fit the context with the text of the prompt."""
    return InputError(
        f"{method.name}: a group of {tokens} visual tokens and its text exceed the context of the model: lower "
        "frames_per_group"
    )


def grids_of_prompts(numbers: Tensor, grids: Sequence[Grid]) -> list[list[Grid]]:
    """The grids of the videos of each prompt, of which there may be adjacent copies.

    Parameters
    ----------
    numbers: ``(B, Q)`` int64, see `FeatureLayout.video_numbers`.
    grids: of all videos, in order.
    """
    counts = [max(0, highest_number + 1) for highest_number in numbers.amax(dim=1).tolist()]
    copies = max(1, sum(counts) // max(1, len(grids)))
    remaining, owned = list(grids), list[list[Grid]]()
    for entry, count in enumerate(counts):
        if entry % copies == 0:
            own, remaining = remaining[:count], remaining[count:]
        owned.append(own)
    return owned


def _prompt_sizes(family: Family, ids: Tensor, mask: Tensor | None, clips: Sequence[Clip]) -> list[PromptSize] | None:
    """The prompts with their videos; None if it is not known which video is whose."""
    grids = [clip.grid for clip in clips]
    if any(clip.forwarded_mask is not None for clip in clips):
        return None
    if len(ids) > 1 and _features(family, grids) > int((ids == family.layout.placeholder).sum()):
        # Stock code of some releases encodes copies of a video for beams.
        return None
    try:
        numbers = family.layout.video_numbers(ids, grids).cpu()
    except InputError:
        return None
    lengths = _lengths_without_padding(ids) if mask is None else mask.bool().sum(dim=1).tolist()
    return [
        PromptSize(length, own, _marks(row) if len(own) == 1 else 0)
        for length, own, row in zip(lengths, grids_of_prompts(numbers, grids), numbers, strict=True)
    ]


def _lengths_without_padding(ids: Tensor) -> list[int]:
    """At most the lengths of prompts ``(B, Q)`` whose padding is unknown: equal ids at an end may be padding."""
    rows, lengths = ids.cpu(), []
    for row in rows:
        inner = ((row != row[0]) & (row != row[-1])).nonzero()
        lengths.append(int(inner[-1] - inner[0]) + 1 if len(inner) else 0)
    return lengths


def _marks(numbers: Tensor) -> int:
    """Text tokens between the features of the one video of a prompt ``(Q,)``."""
    places = (numbers != TEXT).nonzero().flatten()
    return int(places[-1] - places[0]) + 1 - len(places)


def _features(family: Family, grids: Sequence[Grid]) -> int:
    return sum(map(family.layout.feature_count, grids))


def _has_first_pass(method: FirstPassMethod, size: PromptSize) -> bool:
    return any(method.groups(grid.frames) for grid in size.grids)


def _group_beyond(family: Family, method: FirstPassMethod, text: int, grid: Grid) -> int | None:
    """Visual tokens of a group of the first pass that is too long together with the text; None if all groups fit."""
    sizes = group_sizes(method, grid)
    groups = [grid._replace(frames=frames) for frames in sizes]
    counts = method.counts([group.tokens for group in groups]) if groups else []
    for group, kept in zip(groups, counts, strict=True):
        if 0 < kept < group.tokens and is_too_long(family, text + family.layout.feature_count(group)):
            return group.tokens
    return None


def _error(family: Family, plan: Plan, newlines: str, size: PromptSize, scale: float | None) -> InputError:
    visual = _features(family, size.grids)
    kept = [kept_of(plan, newlines, family.layout, grid).features for grid in size.grids]
    least, most = sum(each.least for each in kept), sum(each.most for each in kept)
    return too_long_error(
        family,
        size.length - visual + least,
        visual,
        least,
        size.grids,
        scale,
        frames=_frames_within(family, plan, newlines, size),
        is_least=least < most,
    )


def _frames_within(family: Family, plan: Plan, newlines: str, size: PromptSize) -> int | None:
    """The most frames of each video, of the same size, with which the prompt surely fits; None if unknown."""
    limit, layout = context_length(family), family.layout
    longest = max((grid.frames for grid in size.grids), default=0)
    if limit is None or not is_known(plan):
        return None
    room = limit - _for_answer(limit) - (size.length - _features(family, size.grids))
    method = plan.inside if isinstance(plan.inside, FirstPassMethod) else None
    # Methods with a first pass may need more room for fewer frames, so that bisection could miss the most.
    for steps in range(longest - 1, 0, -1):
        grids = [grid._replace(frames=min(steps, grid.frames)) for grid in size.grids]
        left = room + size.marks * (longest - steps) // (longest - 1)
        if sum(kept_of(plan, newlines, layout, grid).features.most for grid in grids) > left:
            continue
        if method is None or all(_group_beyond(family, method, limit - left, grid) is None for grid in grids):
            return steps * layout.frames_per_step
    return 0


def _for_answer(limit: int) -> int:
    """Positions that are left for the answer: a hundredth of the context."""
    return max(4, limit // 100)
