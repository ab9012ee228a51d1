"""PruneVid: its merging before the LLM (arXiv 2412.16117, stage 1)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..budget import proportional
from ..registry import register_method
from ..tokens import Selection, VideoTokens
from .common.base import PreLLMMethod
from .common.checks import check_integer, check_number
from .common.diversity import density_peaks
from .common.groups import GroupedSelectionBuilder, group_tokens
from .common.merge import blend
from .common.segments import frame_means, segment_by_labels
from .common.similarity import normalize


@register_method
@dataclass(frozen=True)
class PruneVid(PreLLMMethod):
    """Merge tokens that are static over time, and tokens that are similar within a frame.

    Frames are clustered, and the clusters made contiguous. Positions whose tokens hardly differ over a segment are
    averaged over it; these averages, and the other tokens of each frame, are clustered, and every cluster is averaged.
    The second stage of PruneVid, inside the language model, is not implemented.

    Parameters
    ----------
    retention: fraction to keep, in (0, 1]; 1 is the identity. The paper has no such ratio: the numbers of
        clusters that follow from `cluster_ratio` are scaled to it.
    exact: keep exactly ``budget.count(retention, T * H * W)`` tokens; False keeps the clusters that follow from
        `cluster_ratio`, as in the release, for every retention below 1.
    static_threshold: mean cosine above which a position is static.
    temporal_ratio: clusters of frames per frame, in [0, 1].
    cluster_ratio: clusters per token, in (0, 1].
    neighbors: nearest neighbours for the density, including the point itself, >= 1.
    small_block: up to this many static tokens of a segment, or other tokens of a frame, are not clustered, >= 0. With
        ``exact=True`` they count as if all were kept, and are scaled like the others.

    Raises
    ------
    InputError: a retention outside (0, 1].
    MethodError: another parameter outside its range.
    """

    name: ClassVar[str] = "prunevid"
    paper: ClassVar[str] = "https://arxiv.org/abs/2412.16117"
    official_repo: ClassVar[str] = "https://github.com/Visual-AI/PruneVid@b12600c"

    static_threshold: float = 0.8
    temporal_ratio: float = 0.25
    cluster_ratio: float = 0.5
    neighbors: int = 7
    small_block: int = 14

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("static_threshold", self.static_threshold)
        check_number("temporal_ratio", self.temporal_ratio, 0, 1)
        check_number("cluster_ratio", self.cluster_ratio, 0, 1, above=True)
        check_integer("neighbors", self.neighbors, 1)
        check_integer("small_block", self.small_block, 0)

    def reduce(self, tokens: VideoTokens, count: int) -> Selection:
        segments = self.segment(tokens)
        unit = normalize(tokens.features).flatten(1, 2)
        groups = group_tokens(_static(unit, segments, self.static_threshold), segments)
        kept = [self._clusters(size) for size in groups.sizes]
        extra = 0
        if self.exact:
            kept = proportional(count, kept, groups.sizes)
            # Averaging over time may leave fewer entries than the budget: static tokens then return.
            extra = count - sum(kept)
        builder = GroupedSelectionBuilder(tokens, _distance_to_mean(unit, segments), groups, extra)
        for entries, number, is_static in builder.batches(kept):
            if number == entries.shape[1]:
                builder.keep(entries)
                continue
            values = builder.values(entries, is_static)
            clusters = density_peaks(values, number, self.neighbors)
            builder.merge_clusters(entries, clusters, blend(values, clusters.centers, clusters.labels, 0.0))
        return builder.build(sum(kept) + extra)

    def segment(self, tokens: VideoTokens) -> tuple[int, ...]:
        """Frames of each segment."""
        clusters = max(1, int(self.temporal_ratio * tokens.frames))
        labels = density_peaks(frame_means(tokens)[None], clusters, self.neighbors).labels
        return segment_by_labels(labels[0].tolist())

    def _clusters(self, size: int) -> int:
        """Tokens that the release keeps of a group of this size."""
        return size if size <= self.small_block else max(1, int(size * self.cluster_ratio))


def _static(unit: Tensor, segments: tuple[int, ...], threshold: float) -> Tensor:
    """``(S, L)`` bool on the host: whether the mean cosine over all pairs of frames of a segment is above a threshold.

    Parameters
    ----------
    unit: ``(T, L, D)`` unit vectors.
    """
    masks = []
    for part in torch.split(unit, list(segments)):
        frames = len(part)
        # The squared norm of the sum contains every ordered pair, and each token with itself, which is subtracted.
        pairs = part.sum(dim=0).square().sum(dim=-1) - part.square().sum(dim=(0, 2))
        masks.append(pairs / max(frames * (frames - 1), 1) > threshold)
        if frames == 1:
            masks[-1] = torch.zeros_like(masks[-1])
    return torch.stack(masks).cpu()


def _distance_to_mean(unit: Tensor, segments: tuple[int, ...]) -> Tensor:
    """``(N,)``: 1 - cosine between each token and the mean at its position; ranks the static tokens that return."""
    parts = [1 - torch.linalg.vecdot(part, normalize(part.mean(dim=0))) for part in torch.split(unit, list(segments))]
    return torch.cat(parts).flatten()
