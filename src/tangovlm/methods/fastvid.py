"""FastVID: dynamic density pruning (arXiv 2503.11187)."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import ClassVar

import torch
from torch import Tensor

from ..budget import RowCount, apportion, count, exact, proportional, validate_retention
from ..registry import register_method
from ..tokens import Selection, VideoTokens
from .common.checks import check_flag, check_integer, check_number, required_saliency
from .common.merge import blend
from .common.segments import NO_FRAME_FEATURES, adjacent_frames, frame_means, segment_by_frames
from .common.select import density_peaks
from .common.similarity import compute_dtype, normalize
from .common.slots import Slots, best_of_frames, even_counts, keep_all


@register_method
@dataclass(frozen=True)
class FastVID:
    """Keep ``retention`` of the tokens of a video: salient ones of every frame, and anchors that take in a segment.

    The video is cut between unlike frames. The most salient tokens of each frame stay as they are. Every few frames of
    a segment there is an anchor frame, whose density peaks become anchors; each anchor frame by itself takes in all
    tokens of the segment that are not salient, each at the anchor most like it.

    Parameters
    ----------
    retention: fraction to keep, in (0, 1]; 1 is the identity.
    exact: keep exactly ``budget.count(retention, T * H * W)`` tokens; off, the release's counts, rounded down.
    min_segments: the ``min_segments - 1`` least alike neighbours are always parted, >= 1.
    segment_threshold: frames are parted too where their cosine is below this.
    context_ratio: fraction of the kept tokens that are anchors, in [0, 1].
    anchor_interval: frames from one anchor frame to the next, >= 1.
    anchor_weight: weight of an anchor beside its cluster's mean, in [0, 1]; a cluster of n tokens gives its anchor
        at least 1 / (n + 1).
    neighbors: nearest neighbours in the density, the point itself counted, >= 1.

    Raises
    ------
    InputError: a retention outside (0, 1].
    MethodError: another parameter out of its range.
    """

    name: ClassVar[str] = "fastvid"
    stage: ClassVar[str] = "pre-llm"
    signal: ClassVar[str] = "p-attn"
    paper: ClassVar[str] = "https://arxiv.org/abs/2503.11187"
    official_repo: ClassVar[str] = "https://github.com/LunarShen/FastVID@a40a109"
    needs: ClassVar[frozenset[str]] = frozenset({"saliency", "frame_features"})

    retention: float = 0.1
    exact: bool = True
    min_segments: int = 8
    segment_threshold: float = 0.9
    context_ratio: float = 0.4
    anchor_interval: int = 4
    anchor_weight: float = 0.6
    neighbors: int = 4

    def __post_init__(self) -> None:
        validate_retention(self.retention)
        check_flag("exact", self.exact)
        check_number("segment_threshold", self.segment_threshold)
        for name in ("context_ratio", "anchor_weight"):
            check_number(name, getattr(self, name), 0, 1)
        for name in ("min_segments", "anchor_interval", "neighbors"):
            check_integer(name, getattr(self, name), 1)

    @torch.no_grad()
    def __call__(self, tokens: VideoTokens) -> Selection:
        """Reduce one video. Without frame features the frames' mean tokens stand in, and a note says so.

        Raises
        ------
        InputError: no saliency.
        """
        frames = frame_means(tokens) if tokens.frame_features is None else tokens.frame_features
        segments = segment_by_frames(adjacent_frames(frames), self.segment_threshold, self.min_segments - 1)
        notes = (NO_FRAME_FEATURES,) if tokens.frame_features is None else ()
        if self.retention == 1:
            return replace(keep_all(tokens, segments), notes=notes)
        saliency = required_saliency(self, tokens)
        counts = self._counts(tokens)
        salient = best_of_frames(saliency.flatten(1), [c.salient for c in counts])
        slots = Slots(tokens)
        slots.keep(salient.nonzero().flatten())
        left = (~salient).nonzero().flatten()
        pools = torch.split(left, [tokens.height * tokens.width - c.salient for c in counts])
        self._merge(tokens, slots, pools, self._anchor_counts(pools, counts, segments), segments)
        return replace(slots.finish(segments), notes=notes)

    def _counts(self, tokens: VideoTokens) -> list[RowCount]:
        """What each frame keeps."""
        if self.exact:
            kept = even_counts(count(self.retention, tokens.count), tokens.frames)
            salient = apportion((1 - exact(self.context_ratio)) * k for k in kept)
            return [RowCount(k, s) for k, s in zip(kept, salient, strict=True)]
        in_frame = max(1, int(tokens.height * tokens.width * self.retention))
        return [RowCount(in_frame, in_frame - int(in_frame * self.context_ratio))] * tokens.frames

    def _anchor_counts(
        self, pools: Sequence[Tensor], counts: Sequence[RowCount], segments: tuple[int, ...]
    ) -> list[int]:
        """Anchors in each frame; only anchor frames, counted back from the last of a segment, have any."""
        anchors = [0] * len(counts)
        for end, size in zip(accumulate(segments), segments, strict=True):
            context = sum(c.kept - c.salient for c in counts[end - size : end])
            interval = self.anchor_interval
            frames = range(end - 1, end - size - 1, -interval)
            if self.exact:
                # Anchor frames come closer together where those of the paper hold too few tokens.
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
        slots: Slots,
        pools: Sequence[Tensor],
        anchors: Sequence[int],
        segments: tuple[int, ...],
    ) -> None:
        features = tokens.features.flatten(0, 2)
        centers = self._centers(features, pools, anchors)
        for end, size in zip(accumulate(segments), segments, strict=True):
            members = pools[end - size : end]
            starts = [0, *accumulate(len(pool) for pool in members)]
            stands = [start + centers[end - size + i] for i, start in enumerate(starts[:-1]) if anchors[end - size + i]]
            if stands:
                self._merge_segment(features, slots, torch.cat(tuple(members)), stands)

    def _centers(self, features: Tensor, pools: Sequence[Tensor], anchors: Sequence[int]) -> dict[int, Tensor]:
        """Where in its pool the anchors of each anchor frame are, ascending; frames of equal counts at once."""
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

    def _merge_segment(self, features: Tensor, slots: Slots, pool: Tensor, stands: Sequence[Tensor]) -> None:
        """Merge ``pool (n,)``, the tokens left in a segment, into the anchors of each anchor frame in turn.

        Parameters
        ----------
        stands: one ``(m,)`` an anchor frame, where in the pool its anchors are.
        """
        values = features[pool]
        unit = normalize(values)
        highest = unit.new_full(pool.shape, -torch.inf)
        home = torch.full_like(pool, -1)
        for stand in stands:
            similarity = unit @ unit[stand].mT
            labels = similarity.argmax(dim=1)
            labels[stand] = torch.arange(len(stand), device=stand.device)
            merged = blend(values[None], stand[None], labels[None], self._weights(labels, len(stand), values.dtype))
            slots.write(pool[stand], merged[0])
            best = similarity.gather(1, labels[:, None])[:, 0]
            home = torch.where(best > highest, pool[stand][labels], home)
            highest = torch.maximum(highest, best)
        slots.send(pool, home)
        slots.keep(pool[torch.cat(tuple(stands))])

    def _weights(self, labels: Tensor, clusters: int, dtype: torch.dtype) -> Tensor:
        """``(1, m, 1)``: the weight of each anchor."""
        members = labels.new_zeros(clusters).scatter_add_(0, labels, torch.ones_like(labels))
        own = (1 / (members.to(compute_dtype(dtype)) + 1)).clamp_min(self.anchor_weight)
        return own[None, :, None]
