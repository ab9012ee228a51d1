"""HoliTom: holistic token merging, its part before the LLM (arXiv 2505.21334)."""

from dataclasses import dataclass
from math import ceil
from typing import ClassVar

import torch
from torch import Tensor

from ..budget import count, proportional, validate_retention
from ..registry import register_method
from ..tokens import Selection, VideoTokens
from .common.checks import check_flag, check_integer, check_number, required_saliency
from .common.entries import Entries
from .common.merge import blend
from .common.rows import Rows, arrange, static_positions
from .common.segments import segment_by_gain, similarity_threshold
from .common.select import capped_neighbors, density_peaks, top_salient
from .common.similarity import compute_dtype, norms_and_cosines
from .common.slots import keep_all


@register_method
@dataclass(frozen=True)
class HoliTom:
    """Keep ``retention`` of the tokens of a video: static columns clustered and merged, the salient ones of the rest.

    The video is cut so that the most tokens are redundant. Positions that stay the same throughout a segment are
    averaged over its frames; the averages are clustered and merged into their centres. Of the other tokens the most
    salient of each frame stay as they are. One ratio holds for all frames and segments.

    Parameters
    ----------
    retention: fraction to keep, in (0, 1]; 1 is the identity.
    exact: keep exactly ``budget.count(retention, T * H * W)`` tokens; off, the release's counts.
    segment_threshold: cosine above which a token stays the same; None means 0.65 for an equivalent retention up to 0.1,
        else 0.8.
    anchor_weight: weight of a centre beside the mean of the others of its cluster, in [0, 1].
    neighbors: nearest neighbours in the density, the point itself counted and at most as many as centres, >= 1.
    equivalent_retention: mean kept fraction over the layers, in (0, 1], where pruning goes on inside the model; a
        `Pair` sets it. None means `retention`.

    Raises
    ------
    InputError: a retention outside (0, 1].
    MethodError: another parameter out of its range.
    """

    name: ClassVar[str] = "holitom"
    stage: ClassVar[str] = "pre-llm"
    signal: ClassVar[str] = "attn"
    paper: ClassVar[str] = "https://arxiv.org/abs/2505.21334"
    official_repo: ClassVar[str] = "https://github.com/cokeshao/HoliTom@e9b2972"
    needs: ClassVar[frozenset[str]] = frozenset({"saliency"})

    retention: float = 0.1
    exact: bool = True
    segment_threshold: float | None = None
    anchor_weight: float = 0.6
    neighbors: int = 7
    equivalent_retention: float | None = None

    def __post_init__(self) -> None:
        validate_retention(self.retention)
        if self.equivalent_retention is not None:
            validate_retention(self.equivalent_retention)
        check_flag("exact", self.exact)
        if self.segment_threshold is not None:
            check_number("segment_threshold", self.segment_threshold)
        check_number("anchor_weight", self.anchor_weight, 0, 1)
        check_integer("neighbors", self.neighbors, 1)

    @torch.no_grad()
    def __call__(self, tokens: VideoTokens) -> Selection:
        """Reduce one video.

        Raises
        ------
        InputError: no saliency.
        """
        _, similarity = norms_and_cosines(tokens.features.flatten(1, 2))
        static = (similarity > self._threshold).cpu()
        segments = segment_by_gain(static)
        if self.retention == 1:
            return keep_all(tokens, segments)
        saliency = required_saliency(self, tokens)
        rows = arrange(static_positions(static, segments), segments)
        kept = self._counts(tokens, rows)
        reopen = count(self.retention, tokens.count) - sum(kept) if self.exact else 0
        saliency = saliency.to(compute_dtype(saliency.dtype)).flatten()
        entries = Entries(tokens, saliency, rows, reopen)
        for row, keep, is_static in entries.by_shape(kept):
            if is_static and keep < row.shape[1]:
                self._merge(entries, row, keep)
            else:
                entries.keep(row.gather(1, top_salient(entries.saliency[row], keep)))
        return entries.finish(sum(kept) + reopen)

    @property
    def _threshold(self) -> float:
        if self.segment_threshold is not None:
            return self.segment_threshold
        return similarity_threshold(self.equivalent_retention or self.retention)

    def _counts(self, tokens: VideoTokens, rows: Rows) -> list[int]:
        """What each row keeps: the same fraction of all, so that averaging over time buys tokens everywhere."""
        if self.exact:
            return proportional(count(self.retention, tokens.count), rows.sizes, rows.sizes)
        # In the release's order of operations: the product first differs in the last bit, and then by a token a frame.
        ratio = min(self.retention / (len(rows.place) / tokens.count), 1.0)
        return [
            round(size * ratio) if is_static else ceil(size * ratio)
            for size, is_static in zip(rows.sizes, rows.kinds, strict=True)
        ]

    def _merge(self, entries: Entries, row: Tensor, keep: int) -> None:
        """Merge the columns ``row (B, n)`` into ``keep`` centres each."""
        values = entries.values(row, static=True)
        peaks = density_peaks(values, keep, capped_neighbors(self.neighbors, keep))
        merged = blend(values, peaks.centers, peaks.labels, self.anchor_weight, include_anchor=False)
        entries.merge_peaks(row, peaks, merged)
