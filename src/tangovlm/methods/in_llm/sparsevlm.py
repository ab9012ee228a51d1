"""SparseVLM: drop the visual tokens that the question attends to least, and recycle some (arXiv 2410.04417)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...kernels.dpc_knn import dpc_knn
from ...registry import register_method
from ..common.checks import check_flag
from ..common.similarity import compute_dtype
from .common.base import Cut
from .common.schedules import MultiStage
from .common.view import LayerSelection, PromptView, highest


@register_method
@dataclass(frozen=True)
class SparseVLM(MultiStage):
    """At each stage, keep the visual tokens that the raters attend to most, and cluster the best of the others.

    Raters are the tokens of the text after the video to which the visual embeddings are most similar, selected once per
    prompt. The attention is that of the layer before the cut, averaged over heads and raters. The best of n dropped
    tokens, ``3 n // 10 + 1`` of them, are clustered by density peaks into one more than a tenth as many clusters, whose
    means become new tokens after the kept ones. Position ids are renumbered without gaps after each cut (with M-RoPE,
    on all three axes). This is the paper's first version, which cuts after layers 2, 6 and 15 and keeps 300, 200 and
    110 of 576 tokens. With ``exact=True`` kept and new tokens together make the count; with False the new tokens are
    added to it, as in the release.

    Parameters
    ----------
    retention, exact, layers, ratios: see `MultiStage`.
    recycle: create new tokens from the dropped ones.
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

    def prepare(self, visual: Tensor, text: Tensor) -> Tensor:
        """The raters: ``(r,)`` int64 indices into the ``t`` text tokens; all of them if none exceeds the mean."""
        number_type = compute_dtype(visual.dtype)
        relevance = (visual.to(number_type) @ text.to(number_type).T).softmax(dim=1).mean(dim=0)
        raters = (relevance > relevance.mean()).nonzero().flatten()
        return raters if raters.numel() else torch.arange(text.shape[0], device=text.device)

    def __call__(self, view: PromptView) -> LayerSelection:
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
        indices = highest(scores, keep)
        values = view.hidden[view.visual[indices]]
        if clusters:
            values = torch.cat([values, self._recycle(view, scores, indices, clusters)])
        return LayerSelection(indices, values)

    def _clusters(self, dropped: int) -> int:
        """Number of new tokens created from this many dropped ones."""
        return _recycled_count(dropped) // 10 + 1 if self.recycle and dropped else 0

    def _recycle(self, view: PromptView, scores: Tensor, kept: Tensor, clusters: int) -> Tensor:
        """``(clusters, D)``: means of clusters of the better dropped tokens, in the order of their centres."""
        better = _recycled_count(scores.numel() - kept.numel())
        pool = highest(scores.index_fill(0, kept, -torch.inf), better)
        states = view.hidden[view.visual[pool]]
        points = states.to(compute_dtype(states.dtype))
        labels = dpc_knn(points[None] / points.shape[1] ** 0.5, clusters, clusters, include_self=True).labels[0]
        sums = points.new_zeros(clusters, points.shape[1]).index_add_(0, labels, points)
        return (sums / torch.bincount(labels, minlength=clusters)[:, None]).to(states.dtype)


def _recycled_count(dropped: int) -> int:
    return min(dropped, 3 * dropped // 10 + 1)
