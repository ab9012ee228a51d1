"""The least work that pruning a video takes: distances that must be known, and bytes that must be read."""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from tangovlm.budget import SegmentShape, candidates, count, exact_rows
from tangovlm.methods.common.segments import similarity_threshold
from tangovlm.tokens import Selection, VideoTokens

from .reference import CONTEXT_RATIO, EXPANSION


def clustered(tokens: VideoTokens, selection: Selection, retention: float) -> list[int]:
    """Points of every clustering that Tango made with its defaults: candidates of rows, then what is merged.

    Worked out anew from the segments of the selection and from which positions were static in them.
    """
    shapes = segment_shapes(adjacent_cosines(tokens.features) > similarity_threshold(retention), selection.segments)
    return clustered_points(shapes, count(retention, tokens.count))


def clustered_points(shapes: Sequence[SegmentShape], total: int) -> list[int]:
    """The same from the shapes of the segments and the ``total`` number of tokens to keep."""
    counts = exact_rows(total, shapes, CONTEXT_RATIO)
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
    """Floating-point operations of the distances among the points of each clustering, those of a pair once.

    The distance of two points costs a product of ``dim`` multiplications and additions.
    """
    return sum(n * (n - 1) // 2 * 2 * dim for n in points)


@torch.no_grad()
def adjacent_cosines(features: Tensor) -> Tensor:
    """``(T - 1, L)`` float32 on the host: cosines between each token and the next frame's at its position."""
    cosines = features.new_empty(features.shape[0] - 1, features.shape[1] * features.shape[2], dtype=torch.float32)
    for frame, row in enumerate(cosines):
        pair = features[frame : frame + 2].flatten(1, 2).float()
        row.copy_(torch.cosine_similarity(pair[0], pair[1], dim=-1, eps=1e-12))
    return cosines.cpu()


def segment_shapes(alike: Tensor, segments: Sequence[int]) -> list[SegmentShape]:
    """Static and dynamic positions of each segment, given ``(T - 1, L)`` bool: what stays from a frame to the next."""
    shapes = []
    for frames, end in zip(segments, accumulate(segments), strict=True):
        static = int(alike[end - frames : end - 1].all(dim=0).sum()) if frames > 1 else 0
        shapes.append(SegmentShape(frames, static, alike.shape[1] - static))
    return shapes
