"""FlashVID: tree-based spatio-temporal merging, its part before the LLM (arXiv 2602.08024)."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..budget import RowCount, apportion, count, exact, proportional, validate_retention
from ..registry import register_method
from ..tokens import Selection, VideoTokens
from .common.checks import check_choice, check_flag, check_integer, check_number, required_saliency
from .common.merge import blend
from .common.merge_trees import Trees, grow_trees
from .common.segments import adjacent_frames, by_segment, frame_means, segment_by_frames
from .common.select import capped_neighbors, density_peaks, max_min
from .common.similarity import normalize
from .common.slots import Slots, even_counts, keep_all


@register_method
@dataclass(frozen=True)
class FlashVID:
    """Keep ``retention`` of the tokens of a video: salient and diverse ones, and what trees over time are merged into.

    The video is cut between unlike frames. In each frame tokens are chosen one by one, far from those chosen before
    and much looked at. The others merge into the most similar token of the frame before, so that each tree of tokens
    becomes one; what is left of a frame is clustered and averaged. The second stage of FlashVID, inside the LLM, is not
    part of this.

    Parameters
    ----------
    retention: fraction to keep, in (0, 1]; 1 is the identity.
    exact: keep exactly ``budget.count(retention, T * H * W)`` tokens; off, the release's counts, which are rounded up
        in each frame and larger by `expansion`.
    expansion: how much more than ``retention`` the release keeps here, since its stage inside the LLM drops some again;
        > 0. With exact=True it has no effect.
    min_segments: the ``min_segments - 1`` least alike neighbours are always parted, >= 1.
    segment_threshold: frames are parted too where the cosine of their mean tokens is below this.
    token_selection: "attn_div_v2" weighs a candidate by its saliency and by its likeness to the segment's mean,
        "attn_div" by its saliency only.
    selection_ratio: fraction of the kept tokens that are chosen, in [0, 1]; the others are merged ones.
    temporal_threshold: cosine above which a token merges into one of the frame before, in [-1, 1].
    neighbors: nearest neighbours in the density, the point itself counted and at most as many as centres, >= 1.
    subtree_counts: a tree becomes the mean of its tokens; off, a sum divided by too small a count, as in the release,
        which makes tokens that stand still too large; None means as `exact`.

    Raises
    ------
    InputError: a retention outside (0, 1].
    MethodError: another parameter out of its range.
    """

    name: ClassVar[str] = "flashvid"
    stage: ClassVar[str] = "pre-llm"
    signal: ClassVar[str] = "attn"
    paper: ClassVar[str] = "https://arxiv.org/abs/2602.08024"
    official_repo: ClassVar[str] = "https://github.com/Fanziyang-v/FlashVID@1d37422"
    needs: ClassVar[frozenset[str]] = frozenset({"saliency"})

    retention: float = 0.1
    exact: bool = True
    expansion: float = 1.25
    min_segments: int = 8
    segment_threshold: float = 0.9
    token_selection: Literal["attn_div", "attn_div_v2"] = "attn_div_v2"
    selection_ratio: float = 0.7
    temporal_threshold: float = 0.8
    neighbors: int = 7
    subtree_counts: bool | None = None

    def __post_init__(self) -> None:
        validate_retention(self.retention)
        check_flag("exact", self.exact)
        check_number("expansion", self.expansion, 0, above=True)
        check_number("segment_threshold", self.segment_threshold)
        check_choice("token_selection", self.token_selection, ("attn_div", "attn_div_v2"))
        check_number("selection_ratio", self.selection_ratio, 0, 1)
        check_number("temporal_threshold", self.temporal_threshold, -1, 1)
        for name in ("min_segments", "neighbors"):
            check_integer(name, getattr(self, name), 1)
        if self.subtree_counts is not None:
            check_flag("subtree_counts", self.subtree_counts)

    @torch.no_grad()
    def __call__(self, tokens: VideoTokens) -> Selection:
        """Reduce one video.

        Raises
        ------
        InputError: no saliency.
        """
        means = frame_means(tokens)
        segments = segment_by_frames(adjacent_frames(means), self.segment_threshold, self.min_segments - 1)
        if self.retention == 1:
            return keep_all(tokens, segments)
        saliency = required_saliency(self, tokens)
        counts = self._counts(tokens)
        features = tokens.features.flatten(1, 2)
        unit = normalize(features)
        weights = self._weights(features, saliency.flatten(1), means, segments)
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

    def _counts(self, tokens: VideoTokens) -> list[RowCount]:
        """What each frame keeps on average over its segment; `salient` are those chosen."""
        length = tokens.height * tokens.width
        if self.exact:
            kept = even_counts(count(self.retention, tokens.count), tokens.frames)
            chosen = apportion(exact(self.selection_ratio) * k for k in kept)
            return [RowCount(k, s) for k, s in zip(kept, chosen, strict=True)]
        in_frame = min(ceil(length * self.retention * self.expansion), length)
        return [RowCount(in_frame, ceil(in_frame * self.selection_ratio))] * tokens.frames

    def _weights(self, features: Tensor, saliency: Tensor, means: Tensor, segments: tuple[int, ...]) -> Tensor:
        """``(T, L)``: how much a candidate is worth beside its distance; negative where it is unlike its segment."""
        weights = saliency.to(means.dtype)
        if self.token_selection == "attn_div_v2":
            scenes = torch.cat([part.mean(dim=0).expand_as(part) for part in torch.split(means, list(segments))])
            weights = weights * torch.linalg.vecdot(features.to(means.dtype), scenes[:, None])
        return weights

    def _choose(self, unit: Tensor, weights: Tensor, counts: Sequence[int]) -> Tensor:
        """``(T, L)`` bool: the tokens of each frame that are kept as they are."""
        chosen = torch.zeros(unit.shape[:2], dtype=torch.int64, device=unit.device)
        most = max(counts)
        if most:
            # The release lets a chosen token compete again where weights may be negative; it then keeps fewer.
            repeat = not self.exact and self.token_selection == "attn_div_v2"
            order = max_min(unit, most, weights=weights, repeat=repeat)
            wanted = torch.arange(most, device=unit.device) < torch.tensor(counts, device=unit.device)[:, None]
            chosen.scatter_add_(1, order, wanted.long())
        return chosen > 0

    def _gather(
        self,
        tokens: VideoTokens,
        chosen: Tensor,
        trees: Trees,
        counts: Sequence[RowCount],
        segments: tuple[int, ...],
    ) -> Selection:
        """Cluster what is left of each frame, and put all in place."""
        pool = ~(chosen | trees.merged)
        if not self.exact:
            # The release clusters the whole frame where a segment has one, with the chosen tokens.
            alone = [size == 1 for size in segments for _ in range(size)]
            pool |= torch.tensor(alone, device=pool.device)[:, None]
        length = pool.shape[1]
        sizes = pool.sum(dim=1).tolist()
        by_frame = (~pool).to(torch.uint8).sort(dim=1, stable=True).indices
        slots = Slots(tokens)
        home = torch.full_like(trees.roots.flatten(), -1)
        for (size, clusters), frames in _groups(sizes, self._clusters(sizes, counts, segments)).items():
            frame = torch.tensor(frames, device=pool.device)[:, None]
            members = by_frame[frame[:, 0], :size]
            values = trees.values[frame, members]
            members = members + frame * length
            if clusters == size:
                stand, labels = members, torch.arange(size, device=members.device).expand_as(members)
            else:
                peaks = density_peaks(values, clusters, capped_neighbors(self.neighbors, clusters))
                stand, labels = members.gather(1, peaks.centers), peaks.labels
                values = blend(values, peaks.centers, labels, 0.0)
            slots.keep(stand.flatten())
            slots.write(stand, values)
            home[members] = stand.gather(1, labels)
        picked = chosen.flatten()
        # A slot holds one value: a cluster that the release puts where a chosen token stands is left out.
        home = torch.where(picked[home.clamp_min(0)], -1, home)
        slots.send(torch.arange(len(home), device=home.device), home[trees.roots.flatten()])
        places = picked.nonzero().flatten()
        slots.keep(places)
        slots.write(places, tokens.features.flatten(0, 2)[places])
        return slots.finish(segments)

    def _clusters(self, sizes: Sequence[int], counts: Sequence[RowCount], segments: tuple[int, ...]) -> list[int]:
        """Clusters of each frame, in proportion to what is left of it."""
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
    """Frames by how many tokens and clusters they have; those without clusters are left out."""
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for frame, (size, number) in enumerate(zip(sizes, clusters, strict=True)):
        if number:
            groups[size, number].append(frame)
    return groups
