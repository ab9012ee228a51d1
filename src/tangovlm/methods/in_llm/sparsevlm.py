"""SparseVLM: drop the visual tokens that the words of the question look at least, recycle some (arXiv 2410.04417)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...kernels.dpc_knn import dpc_knn
from ...registry import register_method
from ..common.checks import check_flag
from ..common.similarity import compute_dtype
from .common.base import Cut, PromptView, Stages, Step, top


@register_method
@dataclass(frozen=True)
class SparseVLM(Stages):
    """At each stage keep the visual tokens that the rater words look at most; cluster the best of the others.

    Raters are the tokens of the text behind the video that its embeddings are most like, found once. The attention is
    that of the layer before the cut, averaged over heads and raters. Of the dropped tokens the better ones (3 in 10,
    and one) are clustered by density peaks, one cluster for every ten and one more, into new tokens that stand behind
    the kept ones. Positions are counted anew behind each cut, without gaps (on models with three rows of positions, in
    all three). This is the paper's first version. For the other fields see `Stages`; the paper cuts behind layers 2, 6
    and 15 and keeps 300, 200 and 110 of 576 tokens. With `exact` on, kept and new tokens together make the count; off,
    new ones come on top, as in the release.

    Parameters
    ----------
    recycle: make new tokens of what is dropped.
    """

    name: ClassVar[str] = "sparsevlm"
    paper: ClassVar[str] = "https://arxiv.org/abs/2410.04417"
    official_repo: ClassVar[str] = "https://github.com/Gumpest/SparseVLMs@26a5f48"
    renumbers: ClassVar[bool] = True
    paper_cuts: ClassVar[tuple[Cut, ...]] = (Cut(3, 300 / 576), Cut(7, 200 / 576), Cut(16, 110 / 576))

    recycle: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flag("recycle", self.recycle)

    def begin(self, visual: Tensor, text: Tensor) -> Tensor:
        """Raters: ``(r,)`` int64 into the ``t`` tokens of the text; all of them where none stands out."""
        number_type = compute_dtype(visual.dtype)
        relevance = (visual.to(number_type) @ text.to(number_type).T).softmax(dim=1).mean(dim=0)
        raters = (relevance > relevance.mean()).nonzero().flatten()
        return raters if raters.numel() else torch.arange(text.shape[0], device=text.device)

    def __call__(self, view: PromptView) -> Step:
        """See `Inside`."""
        raters = None
        if view.memo is not None and view.memo.numel():
            raters = view.text[view.memo]
        scores = view.probe.attention(raters).mean(dim=(0, 1))[view.visual]
        n = scores.numel()
        if self.exact:
            clusters = self._clusters(n - view.keep)
            clusters = clusters if clusters < view.keep else 0
            keep = view.keep - clusters
        else:
            keep = max(1, min(int(view.entered * view.ratio), n - 1))
            clusters = self._clusters(n - keep)
        indices = top(scores, keep)
        values = view.hidden[view.visual[indices]]
        if clusters:
            values = torch.cat([values, self._recycled(view, scores, indices, clusters)])
        return Step(indices, values)

    def _clusters(self, dropped: int) -> int:
        """New tokens made of so many dropped ones."""
        return _better(dropped) // 10 + 1 if self.recycle and dropped else 0

    def _recycled(self, view: PromptView, scores: Tensor, kept: Tensor, clusters: int) -> Tensor:
        """``(clusters, D)``: means of clusters of the better dropped tokens, in the order of their centres."""
        better = _better(scores.numel() - kept.numel())
        pool = top(scores.index_fill(0, kept, -torch.inf), better)
        states = view.hidden[view.visual[pool]]
        points = states.to(compute_dtype(states.dtype))
        labels = dpc_knn(points[None] / points.shape[1] ** 0.5, clusters, clusters, include_self=True).labels[0]
        sums = points.new_zeros(clusters, points.shape[1]).index_add_(0, labels, points)
        return (sums / torch.bincount(labels, minlength=clusters)[:, None]).to(states.dtype)


def _better(dropped: int) -> int:
    return min(dropped, 3 * dropped // 10 + 1)
