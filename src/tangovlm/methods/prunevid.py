"""PruneVid: its merging before the LLM (arXiv 2412.16117, stage 1)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..budget import count, proportional, validate_retention
from ..registry import register_method
from ..tokens import Selection, VideoTokens
from .common.checks import check_flag, check_integer, check_number
from .common.entries import Entries
from .common.merge import blend
from .common.rows import arrange
from .common.segments import frame_means, segment_by_labels
from .common.select import density_peaks
from .common.similarity import normalize
from .common.slots import keep_all


@register_method
@dataclass(frozen=True)
class PruneVid:
    """Merge what stands still over time and what looks alike within a frame, so that ``retention`` of the tokens stay.

    Frames are clustered and clusters made contiguous. Positions whose tokens hardly differ over a segment are averaged
    over it; these averages, and the other tokens of each frame, are clustered and every cluster averaged. The second
    stage of PruneVid, inside the LLM, is not part of this.

    Parameters
    ----------
    retention: fraction to keep, in (0, 1]; 1 is the identity. The method has no such ratio of its own: the numbers of
        clusters that `cluster_ratio` gives are scaled to it.
    exact: keep exactly ``budget.count(retention, T * H * W)`` tokens; off, what `cluster_ratio` gives, as in the
        release, whatever the retention below 1.
    static_threshold: mean cosine above which a position is static.
    temporal_ratio: clusters of frames per frame, in [0, 1].
    cluster_ratio: clusters per token, in (0, 1].
    neighbors: nearest neighbours in the density, the point itself counted, >= 1.
    small_block: as many static tokens of a segment, or others of a frame, are not clustered, >= 0. With exact=True
        they weigh as much as if they were kept, but are scaled as well.

    Raises
    ------
    InputError: a retention outside (0, 1].
    MethodError: another parameter out of its range.
    """

    name: ClassVar[str] = "prunevid"
    stage: ClassVar[str] = "pre-llm"
    paper: ClassVar[str] = "https://arxiv.org/abs/2412.16117"
    official_repo: ClassVar[str] = "https://github.com/Visual-AI/PruneVid@b12600c"
    needs: ClassVar[frozenset[str]] = frozenset()

    retention: float = 0.1
    exact: bool = True
    static_threshold: float = 0.8
    temporal_ratio: float = 0.25
    cluster_ratio: float = 0.5
    neighbors: int = 7
    small_block: int = 14

    def __post_init__(self) -> None:
        validate_retention(self.retention)
        check_flag("exact", self.exact)
        check_number("static_threshold", self.static_threshold)
        check_number("temporal_ratio", self.temporal_ratio, 0, 1)
        check_number("cluster_ratio", self.cluster_ratio, 0, 1, above=True)
        check_integer("neighbors", self.neighbors, 1)
        check_integer("small_block", self.small_block, 0)

    @torch.no_grad()
    def __call__(self, tokens: VideoTokens) -> Selection:
        """Reduce one video."""
        segments = self._segment(tokens)
        if self.retention == 1:
            return keep_all(tokens, segments)
        unit = normalize(tokens.features).flatten(1, 2)
        rows = arrange(_static(unit, segments, self.static_threshold), segments)
        kept = [self._clusters(size) for size in rows.sizes]
        reopen = 0
        if self.exact:
            total = count(self.retention, tokens.count)
            kept = proportional(total, kept, rows.sizes)
            reopen = total - sum(kept)
        entries = Entries(tokens, _distance_to_mean(unit, segments), rows, reopen)
        for row, clusters, is_static in entries.by_shape(kept):
            if clusters == row.shape[1]:
                entries.keep(row)
                continue
            values = entries.values(row, is_static)
            peaks = density_peaks(values, clusters, self.neighbors)
            entries.merge_peaks(row, peaks, blend(values, peaks.centers, peaks.labels, 0.0))
        return entries.finish(sum(kept) + reopen)

    def _segment(self, tokens: VideoTokens) -> tuple[int, ...]:
        clusters = max(1, int(self.temporal_ratio * tokens.frames))
        labels = density_peaks(frame_means(tokens)[None], clusters, self.neighbors).labels
        return segment_by_labels(labels[0].tolist())

    def _clusters(self, size: int) -> int:
        """Tokens that a row of this size is left with in the release."""
        return size if size <= self.small_block else max(1, int(size * self.cluster_ratio))


def _static(unit: Tensor, segments: tuple[int, ...], threshold: float) -> Tensor:
    """``(S, L)`` bool on the host: the mean cosine of all pairs of different frames of a segment is above threshold.

    Parameters
    ----------
    unit: ``(T, L, D)`` unit vectors.
    """
    masks = []
    for part in torch.split(unit, list(segments)):
        frames = len(part)
        # The squared norm of the sum holds every ordered pair, and each token with itself, which is taken off.
        pairs = part.sum(dim=0).square().sum(dim=-1) - part.square().sum(dim=(0, 2))
        masks.append(pairs / max(frames * (frames - 1), 1) > threshold)
        if frames == 1:
            masks[-1] = torch.zeros_like(masks[-1])
    return torch.stack(masks).cpu()


def _distance_to_mean(unit: Tensor, segments: tuple[int, ...]) -> Tensor:
    """``(N,)``: 1 - cosine between each token and its column's mean; where there is room the most unlike return."""
    parts = [1 - torch.linalg.vecdot(part, normalize(part.mean(dim=0))) for part in torch.split(unit, list(segments))]
    return torch.cat(parts).flatten()
