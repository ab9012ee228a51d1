"""A plain implementation of Tango as the paper describes it: the baseline of `tangovlm bench prune`.

Everything is float32, distances are dense matrices from `torch.cdist`, cosines and sines have the size of the features,
and segments, frames, clusters and the windows of the segmentation are Python loops that read a number from a tensor at
every step, as in the authors' release. Only the counts (`budget.exact_group_counts`) and the threshold come from the
library, so that both keep the same number of tokens. Memory grows with the square of the number of tokens of a segment.

The sections in the docstrings are those of the Tango paper (arXiv 2604.09547).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tangovlm.budget import GroupCount, SegmentShape, count, exact_group_counts
from tangovlm.methods.common.segments import similarity_threshold
from tangovlm.tokens import VideoTokens

CONTEXT_RATIO = 0.4
EXPANSION = 1.5
NEIGHBORS = 7
ANCHOR_WEIGHT = 0.6
BASE_TIME, BASE_SPACE = 1e4, 1e3

# float32 copies of the features during the rotation, and later, when distance matrices of the largest pool are added.
_COPIES_WHILE_ROTATING, _COPIES_BESIDE, _MATRICES = 10, 4, 3


@dataclass(frozen=True)
class Reduced:
    """The kept tokens: ``indices (K,)`` ascending, ``features (K, D)`` float32, and the frames of each segment."""

    indices: Tensor
    features: Tensor
    segments: tuple[int, ...]


def reference_bytes(tokens: int, dim: int, largest_pool: int) -> int:
    """Memory that `tango_reference` needs beyond its input, if it clusters at most ``largest_pool`` points at once."""
    features = 4 * tokens * dim
    return max(_COPIES_WHILE_ROTATING * features, _COPIES_BESIDE * features + _MATRICES * 4 * largest_pool**2)


@torch.no_grad()
def tango_reference(tokens: VideoTokens, retention: float = 0.1) -> Reduced:
    """Prune one video with saliency and timestamps, with the parameters of the paper and without masking sinks."""
    assert tokens.saliency is not None
    assert tokens.timestamps is not None
    features = tokens.features.float()
    unit = features / features.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    alike = (unit[:-1] * unit[1:]).sum(dim=-1).flatten(1) > similarity_threshold(retention)
    segments = segment(alike)
    static = [
        alike[a : b - 1].all(dim=0) if b - a > 1 else alike.new_zeros(alike.shape[1]) for a, b in _spans(segments)
    ]
    shapes = [
        SegmentShape(frames, int(same.sum()), int((~same).sum())) for frames, same in zip(segments, static, strict=True)
    ]
    total = count(retention, tokens.count)
    rows = exact_group_counts(total, shapes, CONTEXT_RATIO)
    video = _Video(features.flatten(1, 2), rotate(unit, tokens.timestamps).flatten(1, 2), tokens.saliency.flatten(1))
    video.reopen(segments, static, total - sum(row.kept for row in rows))
    remaining = iter(rows)
    for (start, stop), same in zip(_spans(segments), static, strict=True):
        video.reduce(start, stop, same, remaining)
    indices = sorted(video.kept)
    return Reduced(torch.tensor(indices), torch.stack([video.kept[index] for index in indices]), segments)


def segment(alike: Tensor) -> tuple[int, ...]:
    """The segments with the largest sum of gains (Temporal Video Segmentation); ``alike`` is ``(T - 1, L)`` bool.

    Frames a..b gain b - a for every position that is alike in all of them. Ties favour a single frame, then the
    shortest window.
    """
    frames = len(alike) + 1
    best, width_at = [0.0], [0]
    for last in range(frames):
        top, chosen = best[last], 1
        same = alike.new_ones(alike.shape[1])
        for width in range(2, last + 2):
            same = same & alike[last + 1 - width]
            gain = best[last + 1 - width] + (width - 1) * same.sum().item()
            if gain > top:
                top, chosen = gain, width
        best.append(top)
        width_at.append(chosen)
    sizes: list[int] = []
    while sum(sizes) < frames:
        sizes.append(width_at[frames - sum(sizes)])
    return tuple(reversed(sizes))


def rotate(unit: Tensor, times_s: Tensor) -> Tensor:
    """Rotate unit tokens ``(T, H, W, D)`` by time, row and column (ST-RoPE), with one angle per channel."""
    frames, height, width, dim = unit.shape
    space = dim // 3 // 2 * 2
    grid = torch.meshgrid(times_s.to(unit), torch.arange(height).to(unit), torch.arange(width).to(unit), indexing="ij")
    angles, halves = [], []
    sizes = (dim - 2 * space, space, space)
    for position, size, base, block in zip(
        grid, sizes, (BASE_TIME, BASE_SPACE, BASE_SPACE), unit.split(sizes, dim=-1), strict=True
    ):
        half = size // 2
        odd = size % 2
        frequencies = base ** -(torch.arange(half).to(unit) / max(half, 1))
        angle = position[..., None] * frequencies
        angles.append(torch.cat([angle, angle, angle.new_zeros(frames, height, width, odd)], dim=-1))
        halves.append(torch.cat([-block[..., half : 2 * half], block[..., :half], block[..., :odd] * 0], dim=-1))
    angle = torch.cat(angles, dim=-1)
    return unit * angle.cos() + torch.cat(halves, dim=-1) * angle.sin()


def density_peaks(points: Tensor, centers: int) -> tuple[Tensor, Tensor]:
    """Centres ``(m,)`` ascending of ``points (n, D)``, and the cluster of each point ``(n,)`` (DPC-KNN)."""
    n = len(points)
    distances = torch.cdist(points, points)
    nearest = distances.topk(min(NEIGHBORS + 1, n), largest=False).values[:, 1:]
    density = (-nearest.square().mean(dim=1)).exp()
    place = torch.arange(n, device=points.device)
    denser = (density > density[:, None]) | ((density == density[:, None]) & (place < place[:, None]))
    separation = torch.where(denser, distances, torch.inf).amin(dim=1)
    separation = torch.where(separation.isinf(), distances.amax(), separation)
    order = (density * separation).sort(descending=True, stable=True).indices
    chosen = order[:centers].sort().values
    labels = torch.cdist(points, points[chosen]).argmin(dim=1)
    labels[chosen] = torch.arange(centers, device=points.device)
    return chosen, labels


def select(points: Tensor, saliency: Tensor, keep: int) -> Tensor:
    """Indices of ``keep`` of n tokens that are salient and diverse (Salient Token Selection), ascending."""
    n = len(points)
    listed = saliency.sort(descending=True, stable=True).indices[: min(int(EXPANSION * keep), n)]
    if len(listed) <= keep:
        return listed[:keep].sort().values
    _, labels = density_peaks(points[listed], keep)
    chosen = []
    for cluster in range(keep):
        members = listed[labels == cluster]
        chosen.append(members[saliency[members].argmax()])
    return torch.stack(chosen).sort().values if chosen else listed[:0]


class _Video:
    """The state of one video during pruning.

    Parameters
    ----------
    features, points: ``(T, L, D)`` float32.
    saliency: ``(T, L)``.
    """

    def __init__(self, features: Tensor, points: Tensor, saliency: Tensor) -> None:
        self._features, self._points, self._saliency = features, points, saliency.float()
        self._length = features.shape[1]
        self._open = torch.zeros_like(saliency, dtype=torch.bool)
        self.kept: dict[int, Tensor] = {}
        """Grid index to value."""

    def reopen(self, segments: tuple[int, ...], static: list[Tensor], number: int) -> None:
        """Keep the most salient static tokens outside the first frame of their segment, unmerged."""
        hidden = torch.zeros_like(self._open)
        for (start, stop), same in zip(_spans(segments), static, strict=True):
            hidden[start + 1 : stop] = same
        places = hidden.flatten().nonzero().flatten()
        ranked = places[self._saliency.flatten()[places].sort(descending=True, stable=True).indices]
        for place in ranked[:number].tolist():
            self._open.view(-1)[place] = True
            self.kept[place] = self._features.flatten(0, 1)[place]

    def reduce(self, start: int, stop: int, static: Tensor, rows: Iterator[GroupCount]) -> None:
        """Reduce the frames ``start`` to ``stop`` of a segment (1.5)."""
        columns, others = static.nonzero().flatten(), (~static).nonzero().flatten()
        if len(columns):
            frames = slice(start, stop)
            used = (~self._open[frames, columns]).float()[..., None]
            values = (self._features[frames][:, columns] * used).sum(dim=0) / used.sum(dim=0)
            self._pool([(start, columns, values, self._saliency[frames][:, columns].mean(dim=0), next(rows))])
        if len(others):
            gaze = self._saliency
            dynamic = [(t, others, self._features[t, others], gaze[t, others], next(rows)) for t in range(start, stop)]
            self._pool(dynamic)

    def _pool(self, parts: list[tuple[int, Tensor, Tensor, Tensor, GroupCount]]) -> None:
        """Select in every part, then merge the remaining tokens of all parts (Spatio-temporal Token Merging)."""
        places, values, points, anchors = [], [], [], 0
        for frame, positions, row_values, gaze, row in parts:
            own = self._points[frame, positions]
            chosen = select(own, gaze, row.salient)
            place = frame * self._length + positions
            self.kept |= zip(place[chosen].tolist(), row_values[chosen], strict=True)
            rest = torch.ones(len(own), dtype=torch.bool, device=own.device)
            rest[chosen] = False
            places.append(place[rest])
            values.append(row_values[rest])
            points.append(own[rest])
            anchors += row.kept - row.salient
        if anchors:
            self._merge(torch.cat(places), torch.cat(values), torch.cat(points), anchors)

    def _merge(self, places: Tensor, values: Tensor, points: Tensor, anchors: int) -> None:
        if anchors >= len(places):
            self.kept |= zip(places.tolist(), values, strict=True)
            return
        centers, labels = density_peaks(points, anchors)
        members = torch.bincount(labels, minlength=anchors)[:, None]
        means = values.new_zeros(anchors, values.shape[1]).index_add_(0, labels, values) / members
        merged = ANCHOR_WEIGHT * values[centers] + (1 - ANCHOR_WEIGHT) * means
        self.kept |= zip(places[centers].tolist(), torch.where(members > 1, merged, values[centers]), strict=True)


def _spans(segments: tuple[int, ...]) -> list[tuple[int, int]]:
    """First frame of each segment, and the frame after its last."""
    ends = torch.tensor(segments).cumsum(0).tolist()
    return [(end - frames, end) for frames, end in zip(segments, ends, strict=True)]
