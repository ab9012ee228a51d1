"""The reducer of Tango: select salient tokens in every row, merge the rest of a segment, put all in place.

Counts, thresholds and placement are decided by the caller, so that one reducer serves the exact budget and the
authors' release alike.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..budget import RowCount
from ..kernels.dpc_knn import dpc_knn
from ..signals.similarity import compute_dtype
from ..tokens import Selection, VideoTokens
from .merge import blend, mean_over_time
from .rows import Rows
from .select import select_salient, top_salient


@dataclass(frozen=True)
class Reducer:
    """How to reduce; see the fields of the same names of `tangovlm.Tango`."""

    expansion: float
    neighbors: int
    anchor_weight: float
    diversity: bool
    merge: bool
    misplace: bool

    def __call__(
        self,
        tokens: VideoTokens,
        points: Tensor,
        saliency: Tensor,
        rows: Rows,
        counts: Sequence[RowCount],
        reopen: int = 0,
    ) -> Selection:
        """Reduce one video.

        Parameters
        ----------
        tokens: the video; only its features are read.
        points: ``(N, D)`` float32 or float64; where distances are taken.
        saliency: ``(N,)``; sinks already masked.
        rows: the entries of the video.
        counts: what each row keeps.
        reopen: static tokens to keep beside their column's mean, for when every entry is kept and the budget is larger.
        """
        state = _State(tokens.features.flatten(0, 2), points, saliency, rows, reopen)
        if all(count.kept == size for count, size in zip(counts, rows.sizes, strict=True)):
            state.keep(torch.arange(len(rows.place), device=points.device))
        else:
            self._select(state, counts)
            self._merge(state, counts)
        return state.finish(tokens, sum(count.kept for count in counts) + reopen)

    def _select(self, state: "_State", counts: Sequence[RowCount]) -> None:
        """Choose the salient entries of every row, all rows of equal shape at once."""
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for start, size, count in zip(state.rows.starts, state.rows.sizes, counts, strict=True):
            if count.salient:
                groups[size, count.salient].append(start)
        for (size, keep), starts in groups.items():
            entries = _ranges(starts, size, state.points.device)
            saliency = state.saliency[entries]
            if self.diversity:
                points = state.points[state.place[entries]]
                chosen = select_salient(points, saliency, keep, expansion=self.expansion, neighbors=self.neighbors)
            else:
                chosen = top_salient(saliency, keep)
            state.keep(entries.gather(1, chosen))

    def _merge(self, state: "_State", counts: Sequence[RowCount]) -> None:
        """Merge what selection left: the static row of a segment by itself, its dynamic rows together."""
        left = (~state.slots).nonzero().flatten()
        pools: dict[tuple[int, int, bool], list[int]] = defaultdict(list)
        start = 0
        for size, anchors, static in _pools(state.rows, counts):
            if anchors:
                pools[size, anchors, static].append(start)
            start += size
        for (size, anchors, static), starts in pools.items():
            entries = left[_ranges(starts, size, left.device)]
            if anchors == size:
                state.keep(entries)
            else:
                self._cluster(state, entries, anchors, static)

    def _cluster(self, state: "_State", entries: Tensor, anchors: int, static: bool) -> None:
        peaks = dpc_knn(state.points[state.place[entries]], anchors, self.neighbors)
        if not self.merge:
            state.keep(entries.gather(1, peaks.centers))
            return
        # The release computes the values in ascending order of the anchors but stores them in order of score.
        stand = entries.gather(1, peaks.order if self.misplace else peaks.centers)
        values = state.column_means[state.column[entries]] if static else state.features[state.place[entries]]
        state.slots[stand] = True
        state.home[entries] = stand.gather(1, peaks.labels)
        merged = blend(values, peaks.centers, peaks.labels, self.anchor_weight)
        state.written.append((stand.flatten(), merged.flatten(0, 1)))


class _State:
    """What is known while one video is reduced; E entries, C of them static columns, on the device of the features."""

    def __init__(self, features: Tensor, points: Tensor, saliency: Tensor, rows: Rows, reopen: int) -> None:
        device = features.device
        self.rows = rows
        self.features = features  # (N, D)
        self.points = points  # (N, D)
        self.reopened = _reopened(saliency, rows, reopen)  # (N,) bool
        self.place = rows.place.to(device)  # (E,)
        columns = rows.columns.to(device)
        self.column_means, mean_saliency = _average_columns(features, saliency, rows, self.reopened)  # (C, D)
        self.saliency = saliency[self.place].index_copy_(0, columns, mean_saliency)  # (E,)
        self.column = torch.zeros_like(self.place)  # (E,) number of a static entry among the columns
        self.column[columns] = torch.arange(len(columns), device=device)
        self.slots = torch.zeros_like(self.place, dtype=torch.bool)  # (E,)
        self.home = torch.full_like(self.place, -1)  # (E,) the slot that an entry goes into, -1 where it is dropped
        self.written = [(columns, self.column_means)]  # entries, and the values that stand there if they are slots

    def keep(self, entries: Tensor) -> None:
        """Make each of these entries a slot of its own."""
        self.slots[entries] = True
        self.home[entries] = entries

    def finish(self, tokens: VideoTokens, total: int) -> Selection:
        kept = self.reopened.clone()
        kept[self.place] |= self.slots
        indices = kept.nonzero().flatten()
        assert len(indices) == total
        number = kept.cumsum(0) - 1
        slot = torch.where(self.home >= 0, number[self.place[self.home.clamp_min(0)]], -1)
        sources = torch.where(self.reopened, number, slot[self.rows.entry_of.to(slot.device)])
        features = self.features[indices]
        for entries, values in self.written:
            used = self.slots[entries]
            features[number[self.place[entries[used]]]] = values[used].to(features.dtype)
        grid = (tokens.frames, tokens.height, tokens.width)
        return Selection(indices, features, sources.view(grid), self.rows.segments)


def _ranges(starts: list[int], size: int, device: torch.device) -> Tensor:
    """``(B, size)``: consecutive numbers from each start."""
    return torch.tensor(starts, device=device)[:, None] + torch.arange(size, device=device)


def _pools(rows: Rows, counts: Sequence[RowCount]) -> list[tuple[int, int, bool]]:
    """(entries left by selection, anchors, whether static) of the pools, in the order of their entries."""
    pools = []
    remaining = iter(counts)
    for shape in rows.shapes:
        for static, size, number in ((True, shape.static, 1), (False, shape.dynamic, shape.frames)):
            if size:
                taken = [next(remaining) for _ in range(number)]
                left = sum(size - count.salient for count in taken)
                pools.append((left, sum(count.kept - count.salient for count in taken), static))
    return pools


def _reopened(saliency: Tensor, rows: Rows, number: int) -> Tensor:
    """``(N,)`` bool: the most salient static tokens outside the first frame of their segment."""
    reopened = torch.zeros(len(saliency), dtype=torch.bool, device=saliency.device)
    if number:
        tokens = torch.arange(len(rows.entry_of))
        hidden = (rows.place[rows.entry_of] != tokens).nonzero().flatten().to(saliency.device)
        order = saliency[hidden].sort(descending=True, stable=True).indices
        reopened[hidden[order[:number]]] = True
    return reopened


def _average_columns(features: Tensor, saliency: Tensor, rows: Rows, reopened: Tensor) -> tuple[Tensor, Tensor]:
    """Mean features ``(C, D)``, without the reopened tokens, and mean saliency ``(C,)`` of the static columns."""
    length = rows.static.shape[1]
    means = [features.new_zeros(0, features.shape[1], dtype=compute_dtype(features.dtype))]
    mean_saliency = [saliency.new_zeros(0)]
    for shape, first, mask in zip(rows.shapes, rows.first_frames, rows.static, strict=True):
        if shape.static:
            frames = torch.arange(first, first + shape.frames)[:, None]
            tokens = (frames * length + mask.nonzero().flatten()).to(features.device)
            means.append(mean_over_time(features[tokens], ~reopened[tokens]))
            mean_saliency.append(saliency[tokens].mean(dim=0))
    return torch.cat(means), torch.cat(mean_saliency)
