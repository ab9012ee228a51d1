"""Lower bounds on the work of pruning a video: distances that must be computed, and bytes that must be read."""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from tangovlm.budget import SegmentShape, candidates, count, exact_group_counts
from tangovlm.methods.common.segments import similarity_threshold
from tangovlm.tokens import Selection, VideoTokens

from .reference import CONTEXT_RATIO, EXPANSION


def clustered(tokens: VideoTokens, selection: Selection, retention: float) -> list[int]:
    """The number of points of every clustering of Tango with its defaults: candidates, then tokens that are merged.

    Computed from the segments of the selection and from the static positions in them.
    """
    shapes = segment_shapes(adjacent_cosines(tokens.features) > similarity_threshold(retention), selection.segments)
    return clustered_points(shapes, count(retention, tokens.count))


def clustered_points(shapes: Sequence[SegmentShape], total: int) -> list[int]:
    """The same, from the shapes of the segments and the ``total`` number of tokens to keep."""
    counts = exact_group_counts(total, shapes, CONTEXT_RATIO)
    if sum(row.kept for row in counts) == sum(shape.tokens for shape in shapes):
        return []
    rows = iter(counts)
    points = []
    for shape in shapes:
        for size, number in ((shape.static, 1), (shape.dynamic, shape.frames)):
            taken = [next(rows) for _ in range(number)] if size else []
            listed = [candidates(row.salient, EXPANSION, size) for row in taken]
            points += [n for n, row in zip(listed, taken, strict=True) if n > row.salient]
            left = sum(size - row.salient for row in taken)
            if 0 < sum(row.kept - row.salient for row in taken) < left:
                points.append(left)
    return points


def known_flops(points: Sequence[int], dim: int) -> int:
    """Floating-point operations of the pairwise distances in each clustering.

    The distance of a pair takes ``dim`` multiplications and additions.
    """
    return sum(n * (n - 1) // 2 * 2 * dim for n in points)


@torch.no_grad()
def adjacent_cosines(features: Tensor) -> Tensor:
    """Cosine similarity of each token with that at its place in the next frame, ``(T - 1, L)`` float32 on the CPU."""
    cosines = features.new_empty(features.shape[0] - 1, features.shape[1] * features.shape[2], dtype=torch.float32)
    for frame, row in enumerate(cosines):
        pair = features[frame : frame + 2].flatten(1, 2).float()
        row.copy_(torch.cosine_similarity(pair[0], pair[1], dim=-1, eps=1e-12))
    return cosines.cpu()


def segment_shapes(alike: Tensor, segments: Sequence[int]) -> list[SegmentShape]:
    """Static and dynamic positions of each segment; ``alike (T - 1, L)`` bool is True where a token equals the next."""
    shapes = []
    for frames, end in zip(segments, accumulate(segments), strict=True):
        static = int(alike[end - frames : end - 1].all(dim=0).sum()) if frames > 1 else 0
        shapes.append(SegmentShape(frames, static, alike.shape[1] - static))
    return shapes
