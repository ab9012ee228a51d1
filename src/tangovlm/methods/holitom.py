"""HoliTom: holistic token merging, its part before the LLM (arXiv 2505.21334)."""

from dataclasses import dataclass
from math import ceil
from typing import ClassVar

from torch import Tensor

from ..budget import proportional, validate_retention
from ..registry import register_method
from ..tokens import Selection, VideoTokens
from .common.base import PreLLMMethod
from .common.checks import check_integer, check_number
from .common.diversity import capped_neighbors, density_peaks
from .common.groups import GroupedSelectionBuilder, TokenGroups, group_tokens
from .common.merge import blend
from .common.segments import segment_by_gain, similarity_threshold, static_positions
from .common.selection import top_indices
from .common.similarity import compute_dtype, norms_and_cosines


@register_method
@dataclass(frozen=True)
class HoliTom(PreLLMMethod):
    """Cluster and merge the static tokens of each segment; of the others, keep the most salient ones of each frame.

    The video is segmented such that as many tokens as possible are redundant. Positions that stay the same throughout a
    segment are averaged over its frames; the averages are clustered and merged into their centres. The most salient of
    the other tokens are kept unchanged. One ratio applies to all frames and segments.

    Parameters
    ----------
    retention: fraction to keep, in (0, 1]; 1 is the identity.
    exact: keep exactly ``budget.count(retention, T * H * W)`` tokens; False uses the release's counts.
    segment_threshold: cosine above which a token counts as unchanged; None means 0.65 for an equivalent retention up to
        0.1, else 0.8.
    anchor_weight: weight of a centre against the mean of the others of its cluster, in [0, 1].
    neighbors: nearest neighbours for the density, including the point itself, at most as many as centres, >= 1.
    equivalent_retention: mean kept fraction over the layers, in (0, 1], if pruning continues inside the model; a `Pair`
        sets it. None means `retention`.

    Raises
    ------
    InputError: a retention outside (0, 1].
    MethodError: another parameter outside its range.
    """

    name: ClassVar[str] = "holitom"
    signal: ClassVar[str] = "attn"
    paper: ClassVar[str] = "https://arxiv.org/abs/2505.21334"
    official_repo: ClassVar[str] = "https://github.com/cokeshao/HoliTom@e9b2972"
    needs: ClassVar[frozenset[str]] = frozenset({"saliency"})

    segment_threshold: float | None = None
    anchor_weight: float = 0.6
    neighbors: int = 7
    equivalent_retention: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.equivalent_retention is not None:
            validate_retention(self.equivalent_retention)
        if self.segment_threshold is not None:
            check_number("segment_threshold", self.segment_threshold)
        check_number("anchor_weight", self.anchor_weight, 0, 1)
        check_integer("neighbors", self.neighbors, 1)

    def segment(self, tokens: VideoTokens) -> tuple[int, ...]:
        """Frames of each segment."""
        return segment_by_gain(self._static(tokens))

    def reduce(self, tokens: VideoTokens, count: int) -> Selection:
        assert tokens.saliency is not None
        static = self._static(tokens)
        segments = segment_by_gain(static)
        groups = group_tokens(static_positions(static, segments), segments)
        kept = self._counts(tokens, groups, count)
        # Averaging over time may leave fewer entries than the budget: static tokens then return.
        extra = count - sum(kept) if self.exact else 0
        saliency = tokens.saliency.to(compute_dtype(tokens.saliency.dtype)).flatten()
        builder = GroupedSelectionBuilder(tokens, saliency, groups, extra)
        for entries, keep, is_static in builder.batches(kept):
            if is_static and keep < entries.shape[1]:
                self._merge(builder, entries, keep)
            else:
                builder.keep(entries.gather(1, top_indices(builder.saliency[entries], keep)))
        return builder.build(sum(kept) + extra)

    @property
    def _threshold(self) -> float:
        if self.segment_threshold is not None:
            return self.segment_threshold
        return similarity_threshold(self.equivalent_retention or self.retention)

    def _static(self, tokens: VideoTokens) -> Tensor:
        """``(T - 1, L)`` bool on the host: whether a position stays the same between a frame and the next."""
        _, similarity = norms_and_cosines(tokens.features.flatten(1, 2))
        return (similarity > self._threshold).cpu()

    def _counts(self, tokens: VideoTokens, groups: TokenGroups, count: int) -> list[int]:
        """Entries that each group keeps: the same fraction of all, so that averaging over time helps every group."""
        if self.exact:
            return proportional(count, groups.sizes, groups.sizes)
        # The release's order of operations: another order may differ in the last bit, and then by a token per frame.
        ratio = min(self.retention / (len(groups.grid_indices) / tokens.count), 1.0)
        return [
            round(size * ratio) if is_static else ceil(size * ratio)
            for size, is_static in zip(groups.sizes, groups.are_static, strict=True)
        ]

    def _merge(self, builder: GroupedSelectionBuilder, entries: Tensor, keep: int) -> None:
        """Merge the static ``entries (B, n)`` of each group into ``keep`` centres."""
        values = builder.values(entries, static=True)
        clusters = density_peaks(values, keep, capped_neighbors(self.neighbors, keep))
        merged = blend(values, clusters.centers, clusters.labels, self.anchor_weight, include_anchor=False)
        builder.merge_clusters(entries, clusters, merged)
