"""FlashVID: tree-based spatio-temporal merging, its part before the LLM (arXiv 2602.08024)."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..budget import GroupCount, apportion, exact, proportional
from ..registry import register_method
from ..tokens import Selection, VideoTokens
from .common.base import PreLLMMethod
from .common.checks import check_choice, check_flag, check_integer, check_number
from .common.diversity import capped_neighbors, density_peaks, max_min
from .common.merge import blend
from .common.merge_trees import Trees, grow_trees
from .common.segments import adjacent_frames, by_segment, frame_means, segment_by_frames
from .common.selection import SelectionBuilder, even_counts
from .common.similarity import normalize


@register_method
@dataclass(frozen=True)
class FlashVID(PreLLMMethod):
    """Keep salient and diverse tokens, and merge the others into trees over time and into clusters.

    The video is cut between dissimilar frames. In each frame, tokens are chosen one by one that are salient and far
    from those chosen before. The others merge into the most similar token of the previous frame, so that each tree of
    tokens becomes one; the remaining tokens of a frame are clustered and averaged. The second stage of FlashVID, inside
    the language model, is not implemented.

    Parameters
    ----------
    retention: fraction to keep, in (0, 1]; 1 is the identity.
    exact: keep exactly ``budget.count(retention, T * H * W)`` tokens; False uses the release's counts, which are
        rounded up in each frame and larger by the factor `expansion`.
    expansion: factor by which the release exceeds ``retention`` here, since its stage inside the language model drops
        tokens again; > 0. No effect with ``exact=True``.
    min_segments: the video is cut at the ``min_segments - 1`` least similar pairs of adjacent frames, >= 1.
    segment_threshold: it is also cut at every pair whose mean tokens have a cosine below this.
    token_selection: "attn_div_v2" weights a candidate by its saliency and its similarity to the segment's mean,
        "attn_div" by its saliency only.
    selection_ratio: fraction of the kept tokens that are chosen, in [0, 1]; the others are merged ones.
    temporal_threshold: cosine above which a token merges into one of the previous frame, in [-1, 1].
    neighbors: nearest neighbours for the density, including the point itself, at most as many as centres, >= 1.
    subtree_counts: True makes a tree the mean of its tokens; False divides their sum by too small a count, as the
        release does, which makes static tokens too large; None means the value of `exact`.

    Raises
    ------
    InputError: a retention outside (0, 1].
    MethodError: another parameter outside its range.
    """

    name: ClassVar[str] = "flashvid"
    signal: ClassVar[str] = "attn"
    paper: ClassVar[str] = "https://arxiv.org/abs/2602.08024"
    official_repo: ClassVar[str] = "https://github.com/Fanziyang-v/FlashVID@1d37422"
    needs: ClassVar[frozenset[str]] = frozenset({"saliency"})

    expansion: float = 1.25
    min_segments: int = 8
    segment_threshold: float = 0.9
    token_selection: Literal["attn_div", "attn_div_v2"] = "attn_div_v2"
    selection_ratio: float = 0.7
    temporal_threshold: float = 0.8
    neighbors: int = 7
    subtree_counts: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("expansion", self.expansion, 0, above=True)
        check_number("segment_threshold", self.segment_threshold)
        check_choice("token_selection", self.token_selection, ("attn_div", "attn_div_v2"))
        check_number("selection_ratio", self.selection_ratio, 0, 1)
        check_number("temporal_threshold", self.temporal_threshold, -1, 1)
        for name in ("min_segments", "neighbors"):
            check_integer(name, getattr(self, name), 1)
        if self.subtree_counts is not None:
            check_flag("subtree_counts", self.subtree_counts)

    def segment(self, tokens: VideoTokens) -> tuple[int, ...]:
        """Frames of each segment."""
        return self._segment(frame_means(tokens))

    def reduce(self, tokens: VideoTokens, count: int) -> Selection:
        assert tokens.saliency is not None
        means = frame_means(tokens)
        segments = self._segment(means)
        counts = self._counts(tokens, count)
        features = tokens.features.flatten(1, 2)
        unit = normalize(features)
        weights = self._weights(features, tokens.saliency.flatten(1), means, segments)
        chosen = self._choose(unit, weights, [c.salient for c in counts])
        trees = grow_trees(
            features,
            unit,
            ~chosen,
            segments,
            [sum(c.kept for c in part) for part in by_segment(counts, segments)],
            self.temporal_threshold,
            subtree_counts=self.exact if self.subtree_counts is None else self.subtree_counts,
        )
        return self._gather(tokens, chosen, trees, counts, segments)

    def _segment(self, means: Tensor) -> tuple[int, ...]:
        return segment_by_frames(adjacent_frames(means), self.segment_threshold, self.min_segments - 1)

    def _counts(self, tokens: VideoTokens, count: int) -> list[GroupCount]:
        """Tokens that each frame keeps, on average over its segment; the `salient` ones are chosen unchanged."""
        length = tokens.height * tokens.width
        if self.exact:
            kept = even_counts(count, tokens.frames)
            chosen = apportion(exact(self.selection_ratio) * k for k in kept)
            return [GroupCount(k, s) for k, s in zip(kept, chosen, strict=True)]
        in_frame = min(ceil(length * self.retention * self.expansion), length)
        return [GroupCount(in_frame, ceil(in_frame * self.selection_ratio))] * tokens.frames

    def _weights(self, features: Tensor, saliency: Tensor, means: Tensor, segments: tuple[int, ...]) -> Tensor:
        """``(T, L)``: factor of a candidate's distance; negative if opposite to the mean of its segment."""
        weights = saliency.to(means.dtype)
        if self.token_selection == "attn_div_v2":
            scenes = torch.cat([part.mean(dim=0).expand_as(part) for part in torch.split(means, list(segments))])
            weights = weights * torch.linalg.vecdot(features.to(means.dtype), scenes[:, None])
        return weights

    def _choose(self, unit: Tensor, weights: Tensor, counts: Sequence[int]) -> Tensor:
        """``(T, L)`` bool: the tokens of each frame that are kept unchanged."""
        chosen = torch.zeros(unit.shape[:2], dtype=torch.int64, device=unit.device)
        most = max(counts)
        if most:
            # The release lets a chosen token compete again if weights may be negative; it then keeps fewer.
            repeat = not self.exact and self.token_selection == "attn_div_v2"
            order = max_min(unit, most, weights=weights, repeat=repeat)
            in_count = torch.arange(most, device=unit.device) < torch.tensor(counts, device=unit.device)[:, None]
            chosen.scatter_add_(1, order, in_count.long())
        return chosen > 0

    def _gather(
        self,
        tokens: VideoTokens,
        chosen: Tensor,
        trees: Trees,
        counts: Sequence[GroupCount],
        segments: tuple[int, ...],
    ) -> Selection:
        """Cluster the remaining tokens of each frame, and assemble the selection."""
        pool = ~(chosen | trees.merged)
        if not self.exact:
            # If a segment has a single frame, the release clusters all of it, including the chosen tokens.
            alone = [size == 1 for size in segments for _ in range(size)]
            pool |= torch.tensor(alone, device=pool.device)[:, None]
        length = pool.shape[1]
        sizes = pool.sum(dim=1).tolist()
        by_frame = (~pool).to(torch.uint8).sort(dim=1, stable=True).indices
        builder = SelectionBuilder(tokens)
        slots = torch.full_like(trees.roots.flatten(), -1)
        for (size, clusters), frames in _groups(sizes, self._clusters(sizes, counts, segments)).items():
            frame = torch.tensor(frames, device=pool.device)[:, None]
            members = by_frame[frame[:, 0], :size]
            values = trees.values[frame, members]
            members = members + frame * length
            if clusters == size:
                centers, labels = members, torch.arange(size, device=members.device).expand_as(members)
            else:
                peaks = density_peaks(values, clusters, capped_neighbors(self.neighbors, clusters))
                centers, labels = members.gather(1, peaks.centers), peaks.labels
                values = blend(values, peaks.centers, labels, 0.0)
            builder.keep(centers.flatten())
            builder.set_values(centers, values)
            slots[members] = centers.gather(1, labels)
        picked = chosen.flatten()
        # A slot has one value: a cluster that the release centres at a chosen token is left out.
        slots = torch.where(picked[slots.clamp_min(0)], -1, slots)
        builder.assign(torch.arange(len(slots), device=slots.device), slots[trees.roots.flatten()])
        kept = picked.nonzero().flatten()
        builder.keep(kept)
        builder.set_values(kept, tokens.features.flatten(0, 2)[kept])
        return builder.build(segments)

    def _clusters(self, sizes: Sequence[int], counts: Sequence[GroupCount], segments: tuple[int, ...]) -> list[int]:
        """Clusters of each frame, in proportion to its remaining tokens."""
        clusters: list[int] = []
        for part, left in zip(by_segment(counts, segments), by_segment(sizes, segments), strict=True):
            budget = sum(c.kept - c.salient for c in part)
            if self.exact:
                shares = iter(proportional(budget, [size for size in left if size], [size for size in left if size]))
                clusters += [next(shares) if size else 0 for size in left]
            else:
                ratio = min(budget / max(sum(left), 1), 1.0)
                clusters += [ceil(size * ratio) for size in left]
        return clusters


def _groups(sizes: Sequence[int], clusters: Sequence[int]) -> dict[tuple[int, int], list[int]]:
    """Frames by their numbers of tokens and clusters; frames without clusters are left out."""
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for frame, (size, number) in enumerate(zip(sizes, clusters, strict=True)):
        if number:
            groups[size, number].append(frame)
    return groups
