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
from ..tokens import Selection, VideoTokens
from .entries import Entries, ranges
from .merge import blend
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
        state = Entries(tokens, saliency, rows, reopen)
        if all(count.kept == size for count, size in zip(counts, rows.sizes, strict=True)):
            state.keep(torch.arange(len(rows.place), device=points.device))
        else:
            self._select(state, points, counts)
            self._merge(state, points, counts)
        return state.finish(sum(count.kept for count in counts) + reopen)

    def _select(self, state: Entries, points: Tensor, counts: Sequence[RowCount]) -> None:
        """Choose the salient entries of every row, all rows of equal shape at once."""
        for entries, keep, _ in state.by_shape([count.salient for count in counts]):
            saliency = state.saliency[entries]
            if self.diversity:
                own = points[state.place[entries]]
                chosen = select_salient(own, saliency, keep, expansion=self.expansion, neighbors=self.neighbors)
            else:
                chosen = top_salient(saliency, keep)
            state.keep(entries.gather(1, chosen))

    def _merge(self, state: Entries, points: Tensor, counts: Sequence[RowCount]) -> None:
        """Merge what selection left: the static row of a segment by itself, its dynamic rows together."""
        left = (~state.slots).nonzero().flatten()
        pools: dict[tuple[int, int, bool], list[int]] = defaultdict(list)
        start = 0
        for size, anchors, static in _pools(state.rows, counts):
            if anchors:
                pools[size, anchors, static].append(start)
            start += size
        for (size, anchors, static), starts in pools.items():
            entries = left[ranges(starts, size, left.device)]
            if anchors == size:
                state.keep(entries)
            else:
                self._cluster(state, entries, points[state.place[entries]], anchors, static)

    def _cluster(self, state: Entries, entries: Tensor, points: Tensor, anchors: int, static: bool) -> None:
        peaks = dpc_knn(points, anchors, self.neighbors)
        if not self.merge:
            state.keep(entries.gather(1, peaks.centers))
            return
        # The release computes the values in ascending order of the anchors but stores them in order of score.
        stand = entries.gather(1, peaks.order if self.misplace else peaks.centers)
        merged = blend(state.values(entries, static), peaks.centers, peaks.labels, self.anchor_weight)
        state.merge(entries, stand, peaks.labels, merged)


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
