"""FlexSelect: keep the visual tokens that the text after the video attends to most (arXiv 2506.00993)."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ... import budget
from ...budget import validate_retention
from ...errors import InputError, MethodError
from ...registry import register_method
from ..common.checks import check_choice, check_integer
from .common.base import Cut, scale_layer
from .common.first_pass import FirstPassMethod
from .common.view import LayerSelection, PromptView, highest, kept_at_cut


@register_method
@dataclass(frozen=True)
class FlexSelect(FirstPassMethod):
    """Keep the visual tokens that any token of the text after the video attends to most in one layer, unchanged.

    This is the form without training. The attention is that of `layer`, the largest weight over its heads and all text
    tokens after the video, or the mean. A video of at most `frames_per_group` frames is pruned before that layer of the
    prefill: the layers below it read all tokens, and kept tokens keep their positions. The frames of a longer video are
    divided into groups, each spread over the whole video; in a first pass the layers below read each group by itself,
    and the prefill reads the chosen tokens of all groups only, from its first layer on. That is a method for accuracy
    on long videos, not for speed: the first pass costs ``layer / n`` of an unpruned prefill through n layers (19 / 28
    in the paper), less the attention between groups, and `VideoReport.equivalent_retention` includes it. The text of
    the prefill has never seen the dropped tokens, and the choice depends on the question.

    `retention` is the fraction of the visual tokens that remain, not the mean over the layers as for other methods
    inside the model. With ``exact=True`` the groups keep exactly ``budget.count(retention, n)`` tokens together, each
    in proportion to its size; with False each keeps the same number, rounded down, as in the release.

    Parameters
    ----------
    retention: fraction of the visual tokens to keep, in (0, 1].
    exact: see above.
    layer: the layer (from 0) whose attention scores the tokens; 0 reads no layer and always selects before the prefill.
        None means the paper's 19, scaled from 28 layers to the model.
    reduce: "max" or "mean" over heads and text tokens.
    token_budget: number of visual tokens to keep of a prompt, >= 1; if given, it replaces `retention`.
    frames_per_group: the most frames of a group, >= 1.
    """

    name: ClassVar[str] = "flexselect"
    paper: ClassVar[str] = "https://arxiv.org/abs/2506.00993"
    official_repo: ClassVar[str] = "https://github.com/yunzhuzhang0918/flexselect@a1d1f5a"
    probe_layer: ClassVar[Literal["before", "own"]] = "own"
    in_pairs: ClassVar[bool] = False
    paper_cuts: ClassVar[tuple[Cut, ...]] = (Cut(19, 0.0625),)

    # The release keeps 6720 of the 512 x 210 tokens of LLaVA-Video.
    retention: float | None = 0.0625
    layer: int | None = None
    reduce: Literal["max", "mean"] = "max"
    token_budget: int | None = None
    frames_per_group: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        validate_retention(self.retention)
        if self.layer is not None:
            check_integer("layer", self.layer, 0)
        check_choice("reduce", self.reduce, ("max", "mean"))
        if self.token_budget is not None:
            check_integer("token_budget", self.token_budget, 1)
        check_integer("frames_per_group", self.frames_per_group, 1)

    def __call__(self, view: PromptView) -> LayerSelection:
        n = view.visual.numel()
        keep = view.keep if self.token_budget is None else min(self.token_budget, n)
        indices = torch.arange(n, device=view.visual.device) if keep == n else highest(self.scores(view), keep)
        return LayerSelection(indices, view.hidden[view.visual[indices]])

    def groups(self, frames: int) -> int:
        """See `FirstPassMethod.groups`."""
        groups = -(-frames // self.frames_per_group)
        return groups if groups > 1 or self.layer == 0 else 0

    def scores(self, view: PromptView) -> Tensor:
        """See `FirstPassMethod.scores`."""
        queries = view.question
        if not queries.numel():
            raise InputError(
                "flexselect ranks visual tokens by the text after the video, but there is none: put the question after "
                "the video, or choose a method that does not read it"
            )
        total: Tensor | None = None
        weights = 0
        for rows in view.probe.attention_chunks(queries):
            on_video = rows[..., view.visual]
            if self.reduce == "max":
                part = on_video.amax(dim=(0, 1))
                total = part if total is None else torch.maximum(total, part)
            else:
                part = on_video.sum(dim=(0, 1))
                total = part if total is None else total + part
                weights += rows.shape[0] * rows.shape[1]
        assert total is not None
        return total if self.reduce == "max" else total / weights

    def counts(self, sizes: Sequence[int]) -> list[int]:
        """See `FirstPassMethod.counts`."""
        total = sum(sizes)
        keep = self._share_of(total) if self.token_budget is None else self.token_budget
        if keep >= total:
            return list(sizes)
        if self.exact:
            return budget.apportion(Fraction(keep * size, total) for size in sizes)
        each = keep // len(sizes)
        if not each:
            raise InputError(
                f"flexselect: a budget of {keep} tokens is less than one for each of {len(sizes)} groups: raise it, "
                "raise frames_per_group, or use exact=True"
            )
        return [min(each, size) for size in sizes]

    def kept_count(self, ratio: float, entered: int, present: int) -> int | None:
        """See `InLLMMethod.kept_count`; rounded alike with and without ``exact``."""
        return kept_at_cut(ratio, entered, present) if self.token_budget is None else min(self.token_budget, present)

    @property
    def custom_layers(self) -> tuple[int, ...] | None:
        """See `InLLMMethod.custom_layers`."""
        return None if self.layer is None else (self.layer,)

    @property
    def custom_ratios(self) -> tuple[float, ...] | None:
        """See `InLLMMethod.custom_ratios`."""
        return None if self.token_budget is not None else (validate_retention(self.retention),)

    @property
    def absolute_count(self) -> int | None:
        """See `InLLMMethod.absolute_count`."""
        return self.token_budget

    @property
    def is_identity(self) -> bool:
        """Whether every token is kept unchanged."""
        return self.retention == 1 and self.token_budget is None

    def cuts(self, layers: int) -> tuple[Cut, ...]:
        """See `InLLMMethod.cuts`; for `token_budget`, the fraction is the upper bound 1."""
        if layers < 2:
            raise MethodError(f"method {self.name!r} prunes between layers, but the model has {layers}")
        if self.is_identity:
            return ()
        place = scale_layer(self.paper_cuts[0].layer, layers) if self.layer is None else self.layer
        if place >= layers:
            raise MethodError(f"method {self.name!r} reads the attention of layer {place}: choose 0 to {layers - 1}")
        return (Cut(place, 1.0 if self.custom_ratios is None else self.custom_ratios[0]),)

    def _share_of(self, tokens: int) -> int:
        return budget.count(validate_retention(self.retention), tokens)
