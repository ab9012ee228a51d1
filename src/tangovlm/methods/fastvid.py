"""FastVID: dynamic density pruning (arXiv 2503.11187)."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

import torch
from torch import Tensor

from ..budget import GroupCount, apportion, exact, proportional
from ..registry import register_method
from ..tokens import Selection, VideoTokens
from .common.base import PreLLMMethod
from .common.checks import check_integer, check_number
from .common.diversity import density_peaks
from .common.merge import blend
from .common.segments import adjacent_frames, frame_means, segment_by_frames
from .common.selection import SelectionBuilder, even_counts, top_per_frame
from .common.similarity import compute_dtype, normalize


@register_method
@dataclass(frozen=True)
class FastVID(PreLLMMethod):
    """Keep the salient tokens of every frame, and merge the others of a segment into anchors.

    The video is cut between dissimilar frames. The most salient tokens of each frame are kept unchanged. Every few
    frames of a segment there is an anchor frame, whose density peaks become anchors. All tokens of the segment that are
    not salient are merged into the anchors of each anchor frame in turn, each token into the most similar anchor.

    Parameters
    ----------
    retention: fraction to keep, in (0, 1]; 1 is the identity.
    exact: keep exactly ``budget.count(retention, T * H * W)`` tokens; False uses the release's counts, rounded down.
    min_segments: the video is cut at the ``min_segments - 1`` least similar pairs of adjacent frames, >= 1.
    segment_threshold: it is also cut at every pair with a cosine below this.
    context_ratio: fraction of the kept tokens that are anchors, in [0, 1].
    anchor_interval: frames from one anchor frame to the next, >= 1.
    anchor_weight: weight of an anchor against its cluster's mean, in [0, 1]; in a cluster of n tokens at least
        1 / (n + 1).
    neighbors: nearest neighbours for the density, including the point itself, >= 1.

    Raises
    ------
    InputError: a retention outside (0, 1].
    MethodError: another parameter outside its range.
    """

    name: ClassVar[str] = "fastvid"
    signal: ClassVar[str] = "p-attn"
    paper: ClassVar[str] = "https://arxiv.org/abs/2503.11187"
    official_repo: ClassVar[str] = "https://github.com/LunarShen/FastVID@a40a109"
    needs: ClassVar[frozenset[str]] = frozenset({"saliency", "frame_features"})

    min_segments: int = 8
    segment_threshold: float = 0.9
    context_ratio: float = 0.4
    anchor_interval: int = 4
    anchor_weight: float = 0.6
    neighbors: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("segment_threshold", self.segment_threshold)
        for name in ("context_ratio", "anchor_weight"):
            check_number(name, getattr(self, name), 0, 1)
        for name in ("min_segments", "anchor_interval", "neighbors"):
            check_integer(name, getattr(self, name), 1)

    def segment(self, tokens: VideoTokens) -> tuple[int, ...]:
        """Frames of each segment; without frame features, by the mean token of each frame."""
        frames = frame_means(tokens) if tokens.frame_features is None else tokens.frame_features
        return segment_by_frames(adjacent_frames(frames), self.segment_threshold, self.min_segments - 1)

    def reduce(self, tokens: VideoTokens, count: int) -> Selection:
        assert tokens.saliency is not None
        segments = self.segment(tokens)
        counts = self._counts(tokens, count)
        salient = top_per_frame(tokens.saliency.flatten(1), [c.salient for c in counts])
        builder = SelectionBuilder(tokens)
        builder.keep(salient.nonzero().flatten())
        left = (~salient).nonzero().flatten()
        pools = torch.split(left, [tokens.height * tokens.width - c.salient for c in counts])
        self._merge(tokens, builder, pools, self._anchor_counts(pools, counts, segments), segments)
        return builder.build(segments)

    def _counts(self, tokens: VideoTokens, count: int) -> list[GroupCount]:
        """Tokens that each frame keeps."""
        if self.exact:
            kept = even_counts(count, tokens.frames)
            salient = apportion((1 - exact(self.context_ratio)) * k for k in kept)
            return [GroupCount(k, s) for k, s in zip(kept, salient, strict=True)]
        in_frame = max(1, int(tokens.height * tokens.width * self.retention))
        return [GroupCount(in_frame, in_frame - int(in_frame * self.context_ratio))] * tokens.frames

    def _anchor_counts(
        self, pools: Sequence[Tensor], counts: Sequence[GroupCount], segments: tuple[int, ...]
    ) -> list[int]:
        """Anchors in each frame; only anchor frames, counted backwards from the last of a segment, have any."""
        anchors = [0] * len(counts)
        for end, size in zip(accumulate(segments), segments, strict=True):
            context = sum(c.kept - c.salient for c in counts[end - size : end])
            interval = self.anchor_interval
            frames = range(end - 1, end - size - 1, -interval)
            if self.exact:
                # The interval shrinks if the anchor frames of the paper have too few tokens.
                while sum(len(pools[f]) for f in frames) < context:
                    interval -= 1
                    frames = range(end - 1, end - size - 1, -interval)
                frames = frames[::-1]
                shares = proportional(context, [1] * len(frames), [len(pools[f]) for f in frames])
            else:
                shares = [min(context // len(frames), len(pools[f])) for f in frames]
            for frame, share in zip(frames, shares, strict=True):
                anchors[frame] = share
        return anchors

    def _merge(
        self,
        tokens: VideoTokens,
        builder: SelectionBuilder,
        pools: Sequence[Tensor],
        anchors: Sequence[int],
        segments: tuple[int, ...],
    ) -> None:
        features = tokens.features.flatten(0, 2)
        centers = self._centers(features, pools, anchors)
        for end, size in zip(accumulate(segments), segments, strict=True):
            members = pools[end - size : end]
            starts = [0, *accumulate(len(pool) for pool in members)]
            in_frames = [
                start + centers[end - size + i] for i, start in enumerate(starts[:-1]) if anchors[end - size + i]
            ]
            if in_frames:
                self._merge_segment(features, builder, torch.cat(tuple(members)), in_frames)

    def _centers(self, features: Tensor, pools: Sequence[Tensor], anchors: Sequence[int]) -> dict[int, Tensor]:
        """Indices of the anchors of each anchor frame into its pool, ascending; frames of equal counts are batched."""
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for frame, (pool, number) in enumerate(zip(pools, anchors, strict=True)):
            if number:
                groups[len(pool), number].append(frame)
        centers: dict[int, Tensor] = {}
        for (_, number), frames in groups.items():
            values = features[torch.stack([pools[frame] for frame in frames])]
            peaks = density_peaks(values, number, self.neighbors)
            centers.update(zip(frames, peaks.centers, strict=True))
        return centers

    def _merge_segment(
        self, features: Tensor, builder: SelectionBuilder, pool: Tensor, anchors: Sequence[Tensor]
    ) -> None:
        """Merge ``pool (n,)``, the remaining tokens of a segment, into the anchors of each anchor frame in turn.

        Parameters
        ----------
        anchors: for each anchor frame ``(m,)``, indices into the pool.
        """
        values = features[pool]
        unit = normalize(values)
        highest = unit.new_full(pool.shape, -torch.inf)
        slots = torch.full_like(pool, -1)
        for in_frame in anchors:
            similarity = unit @ unit[in_frame].mT
            labels = similarity.argmax(dim=1)
            labels[in_frame] = torch.arange(len(in_frame), device=in_frame.device)
            weights = self._weights(labels, len(in_frame), values.dtype)
            builder.set_values(pool[in_frame], blend(values[None], in_frame[None], labels[None], weights)[0])
            best = similarity.gather(1, labels[:, None])[:, 0]
            slots = torch.where(best > highest, pool[in_frame][labels], slots)
            highest = torch.maximum(highest, best)
        builder.assign(pool, slots)
        builder.keep(pool[torch.cat(tuple(anchors))])

    def _weights(self, labels: Tensor, clusters: int, dtype: torch.dtype) -> Tensor:
        """``(1, m, 1)``: the weight of each anchor."""
        members = labels.new_zeros(clusters).scatter_add_(0, labels, torch.ones_like(labels))
        own = (1 / (members.to(compute_dtype(dtype)) + 1)).clamp_min(self.anchor_weight)
        return own[None, :, None]
