"""How many features of a video the language model reads, as far as the method determines it for every video."""

from typing import NamedTuple

from ...budget import count
from ...methods.build import Plan, is_adaptive
from ...methods.in_llm.common.first_pass import FirstPassMethod
from ...models.common.layout import FeatureLayout, Grid


class Range(NamedTuple):
    """The least and the largest value of a number."""

    least: int
    most: int


class Kept(NamedTuple):
    """What enters the language model of one video.

    Parameters
    ----------
    tokens: of its grid.
    newlines: see `FeatureLayout.newlines`.
    features: both together.
    groups: tokens of each group that is read in a pass before the prefill; empty if there is none.
    """

    tokens: Range
    newlines: Range
    features: Range
    groups: tuple[int, ...] = ()


def is_known(plan: Plan) -> bool:
    """Whether the number of kept tokens, or with an adaptive method the largest one, is that of `budget.count`."""
    before = plan.before
    return before is None or is_adaptive(before) or bool(getattr(before, "keeps_count", False))


def kept_of(plan: Plan, newlines: str, layout: FeatureLayout, grid: Grid) -> Kept:
    """What a method keeps of a video, before the language model or in a pass before the prefill.

    Parameters
    ----------
    newlines: "kept" or "counted", see `tangovlm.attach`.
    layout: of the family.

    Raises
    ------
    InputError: see `FirstPassMethod.counts`.
    """
    everything, before = grid.tokens, plan.before
    if before is None:
        return _kept_inside(plan, layout, grid)
    if not is_known(plan):
        return _with_newlines(Range(0, everything), layout, grid)
    if newlines == "counted":
        budget = count(before.retention, layout.feature_count(grid))
        most = min(budget, everything)
        # So many tokens fit whichever they are, so that `select_with_newlines` selects at least as many.
        sure = max(1, min(most, int(layout.tokens_within(budget, grid))))
        kept = _with_newlines(Range(1 if is_adaptive(before) else sure, most), layout, grid)
        return kept._replace(features=Range(kept.features.least, budget))
    most = count(before.retention, everything)
    return _with_newlines(Range(1 if is_adaptive(before) else most, most), layout, grid)


def group_sizes(method: FirstPassMethod, grid: Grid) -> list[int]:
    """Frames of each group of the first pass over a video; empty if there is none."""
    groups = method.groups(grid.frames)
    return [len(range(first, grid.frames, groups)) for first in range(groups)]


def _kept_inside(plan: Plan, layout: FeatureLayout, grid: Grid) -> Kept:
    method = plan.inside
    sizes = group_sizes(method, grid) if isinstance(method, FirstPassMethod) else []
    if not isinstance(method, FirstPassMethod) or not sizes:
        return _with_newlines(Range(grid.tokens, grid.tokens), layout, grid)
    tokens = [frames * grid.height * grid.width for frames in sizes]
    counts = method.counts(tokens)
    total = sum(counts)
    read = tuple(size for size, kept in zip(tokens, counts, strict=True) if 0 < kept < size)
    return _with_newlines(Range(total, total), layout, grid)._replace(groups=read)


def _with_newlines(tokens: Range, layout: FeatureLayout, grid: Grid) -> Kept:
    newlines = Range(layout.newline_range(tokens.least, grid)[0], layout.newline_range(tokens.most, grid)[1])
    features = Range(tokens.least + newlines.least, tokens.most + newlines.most)
    return Kept(tokens, newlines, features)
