"""The reducer of Tango: select salient tokens in every row, merge the rest of a segment, put all in place.

Counts, thresholds and placement are decided by the caller, so that one reducer serves the exact budget and the
authors' release alike.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...budget import RowCount, candidates
from ...kernels.blend import blend_ragged
from ...kernels.dpc_knn import dpc_knn_ragged
from ...tokens import Selection, VideoTokens
from .entries import Entries
from .rows import Rows
from .select import select_diverse, top_salient
from .transfer import send


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
        points: Callable[[Tensor], Tensor],
        saliency: Tensor,
        rows: Rows,
        counts: Sequence[RowCount],
        reopen: int = 0,
    ) -> Selection:
        """Reduce one video.

        Parameters
        ----------
        tokens: the video; only its features are read.
        points: gives ``(k, D)`` float32 or float64, where distances are taken, of tokens ``(k,)`` on their device.
        saliency: ``(N,)`` on the host; sinks already masked.
        rows: the entries of the video.
        counts: what each row keeps.
        reopen: static tokens to keep beside their column's mean, for when every entry is kept and the budget is larger.
        """
        state = Entries(tokens, saliency, rows, reopen)
        if all(count.kept == size for count, size in zip(counts, rows.sizes, strict=True)):
            state.keep(torch.arange(len(rows.place), device=state.device))
        else:
            self._select(state, points, counts)
            self._merge(state, points, counts)
        return state.finish(sum(count.kept for count in counts) + reopen)

    def _select(self, state: Entries, points: Callable[[Tensor], Tensor], counts: Sequence[RowCount]) -> None:
        """Choose the salient entries of every row. Which ones compete is known on the host."""
        kept, competing = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0, dtype=torch.int64)]
        sizes, keep = [], []
        for entries, number, _ in state.by_shape([count.salient for count in counts]):
            wanted = candidates(number, self.expansion, entries.shape[1]) if self.diversity else number
            shortlist = entries.gather(1, top_salient(state.saliency[entries], wanted))
            if wanted == number:
                kept.append(shortlist.flatten())
            else:
                competing.append(shortlist.flatten())
                sizes += [wanted] * len(shortlist)
                keep += [number] * len(shortlist)
        state.keep(send(torch.cat(kept), state.device))
        if sizes:
            shortlist = send(torch.cat(competing), state.device)
            state.keep(select_diverse(lambda some: points(state.place[some]), shortlist, sizes, keep, self.neighbors))

    def _merge(self, state: Entries, points: Callable[[Tensor], Tensor], counts: Sequence[RowCount]) -> None:
        """Merge what selection left: the static row of a segment by itself, its dynamic rows together."""
        pools = _pools(state.rows, counts)
        left = state.left(sum(pool.size for pool in pools))
        state.keep(left[_places([pool for pool in pools if 0 < pool.anchors == pool.size], state.device)])
        # Pools of one shape side by side are clustered at once; static ones come first.
        crowded = sorted(
            (pool for pool in pools if 0 < pool.anchors < pool.size), key=lambda p: (not p.static, p.size, p.anchors)
        )
        if crowded:
            self._cluster(state, left[_places(crowded, state.device)], points, crowded)

    def _cluster(
        self, state: Entries, entries: Tensor, points: Callable[[Tensor], Tensor], pools: list["_Pool"]
    ) -> None:
        peaks = dpc_knn_ragged(
            lambda some: points(state.place[entries[some]]),
            [pool.size for pool in pools],
            [pool.anchors for pool in pools],
            self.neighbors,
            device=state.device,
            ordered=self.misplace,
        )
        if not self.merge:
            state.keep(entries[peaks.centers])
            return
        # The release computes the values in ascending order of the anchors but stores them in order of score.
        stand = entries[peaks.order if self.misplace else peaks.centers]
        members = sum(pool.size for pool in pools if pool.static)
        clusters = sum(pool.anchors for pool in pools if pool.static)
        means, features = state.column_means, state.features
        merged = torch.cat(
            [
                self._blend(means, state.column(entries[:members]), peaks.centers[:clusters], peaks.labels[:members]),
                self._blend(
                    features,
                    state.place[entries[members:]],
                    peaks.centers[clusters:] - members,
                    peaks.labels[members:] - clusters,
                ),
            ]
        )
        state.merge(entries[None], stand[None], peaks.labels[None], merged[None])

    def _blend(self, values: Tensor, index: Tensor, centers: Tensor, labels: Tensor) -> Tensor:
        return blend_ragged(values, index, centers, labels, self.anchor_weight)


@dataclass(frozen=True)
class _Pool:
    """Entries that are merged with each other: the first of those left, their number, how many anchors they get, and
    whether they are static."""

    start: int
    size: int
    anchors: int
    static: bool


def _pools(rows: Rows, counts: Sequence[RowCount]) -> list[_Pool]:
    """What selection leaves, in the order of the entries."""
    pools: list[_Pool] = []
    start = 0
    remaining = iter(counts)
    for shape in rows.shapes:
        for static, size, number in ((True, shape.static, 1), (False, shape.dynamic, shape.frames)):
            if size:
                taken = [next(remaining) for _ in range(number)]
                left = sum(size - count.salient for count in taken)
                pools.append(_Pool(start, left, sum(count.kept - count.salient for count in taken), static))
                start += left
    return pools


def _places(pools: list[_Pool], device: torch.device) -> Tensor:
    """The numbers of the pools' entries among those left, pool after pool."""
    parts = [torch.arange(pool.start, pool.start + pool.size) for pool in pools]
    return send(torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64), device)
