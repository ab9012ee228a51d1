"""Temporal segmentation of a video, and the grid positions that are static in a segment."""

from collections.abc import Sequence
from itertools import accumulate, groupby
from operator import itemgetter
from typing import TypeVar

import torch
from torch import Tensor

from ...tokens import VideoTokens
from .similarity import adjacent_similarity, compute_dtype, normalize

T = TypeVar("T")

WINDOW_CAP = 1024


def similarity_threshold(equivalent_retention: float) -> float:
    """Cosine above which a token counts as unchanged from one frame to the next, by the equivalent retention.

    0.65 up to a retention of 0.10, else 0.8 (HoliTom, arXiv 2505.21334; Tango, arXiv 2604.09547). The papers set it by
    the mean kept fraction over the layers (Eq. 1), not by what a pair keeps before the model.

    >>> similarity_threshold(0.10), similarity_threshold(0.15)
    (0.65, 0.8)
    """
    return 0.65 if equivalent_retention <= 0.1 else 0.8


def static_runs(static: Tensor) -> Tensor:
    """Length of the run of True that ends at each pair of frames.

    Parameters
    ----------
    static: ``(T - 1, L)`` bool; whether a grid position stays the same between a frame and the next.

    Returns ``(T - 1, L)`` int64.
    """
    pair = torch.arange(static.shape[0], device=static.device)[:, None].expand(static.shape)
    last_change = pair.masked_fill(static, -1).cummax(dim=0).values if static.shape[0] else pair
    return pair - last_change


def static_positions(static: Tensor, segments: tuple[int, ...]) -> Tensor:
    """Positions ``(S, L)`` that are static in every pair of adjacent frames of a segment; none in a single frame.

    Parameters
    ----------
    static: ``(T - 1, L)`` bool on the host; whether a position stays the same between a frame and the next.
    segments: frames of each segment.
    """
    runs = static_runs(static)
    masks = torch.zeros(len(segments), static.shape[1], dtype=torch.bool)
    for mask, size, end in zip(masks, segments, accumulate(segments), strict=True):
        if size > 1:
            mask.copy_(runs[end - 2] >= size - 1)
    return masks


def segment_by_gain(static: Tensor) -> tuple[int, ...]:
    """Segments that make the most tokens redundant (HoliTom, arXiv 2505.21334; the Tango default).

    An interval of frames [a, b] gains ``(b - a)`` tokens for every grid position that is static throughout it; dynamic
    programming over prefixes maximises the sum of gains. Ties favour a segment of one frame, then the shortest window.
    A segment has at most `WINDOW_CAP` frames. Time and memory are O(T L + T min(T, cap)).

    Parameters
    ----------
    static: ``(T - 1, L)`` bool on the host.

    Returns the frames of each segment; they sum to T.
    """
    frames = static.shape[0] + 1
    gains = _gains(static)
    best, width_at = [0, 0], [0, 1]
    for last in range(1, frames):
        row = gains[last - 1]
        options = [best[last]]
        options += [best[last + 1 - width] + row[width - 1] for width in range(2, min(last + 1, WINDOW_CAP) + 1)]
        top = max(options)
        best.append(top)
        width_at.append(options.index(top) + 1)
    sizes: list[int] = []
    end = frames
    while end:
        sizes.append(width_at[end])
        end -= width_at[end]
    return tuple(reversed(sizes))


def _gains(static: Tensor) -> list[list[int]]:
    """For each pair p and each n: n times the number of positions that are static in the n pairs ending with p."""
    pairs = static.shape[0]
    longest = min(pairs, WINDOW_CAP - 1)
    runs = static_runs(static).clamp_max(longest)
    histogram = torch.zeros(pairs, longest + 1, dtype=torch.int64).scatter_add_(1, runs, torch.ones_like(runs))
    at_least = histogram.flip(1).cumsum(1).flip(1)
    gains: list[list[int]] = (at_least * torch.arange(longest + 1)).tolist()
    return gains


def segment_by_frames(similarity: Tensor, threshold: float, cuts: int = 7) -> tuple[int, ...]:
    """Segments between dissimilar frames (FastVID, arXiv 2503.11187).

    Cut after frame t if its similarity to the next is below ``threshold`` or among the ``cuts`` smallest; the earliest
    wins a tie.

    Parameters
    ----------
    similarity: ``(T - 1,)`` cosines between global features of adjacent frames, on the host.
    """
    cut = similarity < threshold
    cut[similarity.sort(stable=True).indices[:cuts]] = True
    ends = [*(cut.nonzero().flatten() + 1).tolist(), similarity.shape[0] + 1]
    return tuple(end - start for start, end in zip([0, *ends], ends, strict=False))


def segment_by_labels(labels: Sequence[int]) -> tuple[int, ...]:
    """Segments from the cluster of each frame, made contiguous (PruneVid, arXiv 2412.16117).

    A cluster keeps its longest runs of frames, but no run of a single frame. Each remaining gap joins, as a whole and
    from left to right, the longer of the adjacent runs, the left one if they are equal. Without any run the video is
    one segment.
    """
    runs = [(label, len(list(group))) for label, group in groupby(labels)]
    longest = {label: max(size for other, size in runs if other == label) for label, _ in runs}
    kept = [(label if size == longest[label] > 1 else None, size) for label, size in runs]
    joined = [(label, sum(size for _, size in group)) for label, group in groupby(kept, key=itemgetter(0))]
    segments: list[tuple[int | None, int]] = []
    for i, (label, size) in enumerate(joined):
        if label is None:
            left = segments[-1] if segments else (None, 0)
            right = joined[i + 1] if i + 1 < len(joined) else (None, 0)
            label = left[0] if left[1] >= right[1] else right[0]
        if segments and segments[-1][0] == label:
            size += segments.pop()[1]
        segments.append((label, size))
    return tuple(size for _, size in segments)


def frame_means(tokens: VideoTokens) -> Tensor:
    """``(T, D)`` in float32 (float64 for float64): the mean token of each frame."""
    flat = tokens.features.flatten(1, 2)
    return flat.to(compute_dtype(flat.dtype)).mean(dim=1)


def adjacent_frames(frames: Tensor) -> Tensor:
    """``(T - 1,)`` on the host: cosines between vectors ``(T, Dv)`` of adjacent frames."""
    return adjacent_similarity(normalize(frames)).cpu()


def by_segment(values: Sequence[T], segments: Sequence[int]) -> list[Sequence[T]]:
    """Split values of frames by segment."""
    return [values[end - size : end] for end, size in zip(accumulate(segments), segments, strict=True)]
